// Pages on two other origins in a real browser, each of which asks for an account with a token: the listed one can read the answer, errors
// included, and the other one nothing. Usage: node cross-origin.mjs URL CHROMIUM LISTED_PORT OTHER_PORT, and the token in TOKEN.
import assert from "node:assert/strict";
import http from "node:http";
import { chromium } from "playwright-core";

const [url, executablePath, listed, other] = process.argv.slice(2);
const servers = [listed, other].map((port) =>
  http.createServer((_, response) => response.setHeader("Content-Type", "text/html").end("<!doctype html>")).listen(port, "localhost"),
);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });

async function ask(port, agent, token, method = "GET", path = `agents/${agent}/account`) {
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  await page.goto(`http://localhost:${port}/`);
  const answer = await page.evaluate(
    async ([target, token, method, agent]) => {
      const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...(method === "POST" && { "Content-Type": "application/json" }) };
      const body = method === "POST" ? JSON.stringify({ agent_ids: [agent] }) : undefined;
      try {
        const response = await fetch(target, { method, headers, body });
        return { status: response.status, challenge: response.headers.get("WWW-Authenticate"), body: await response.json() };
      } catch (error) {
        return { error: error.name };
      }
    },
    [`${url}/api/v1/calcom/${path}`, token, method, agent],
  );
  await page.close();
  return answer;
}

const agent = "a0000000-0000-4000-8000-000000000001";
const token = process.env.TOKEN;

const found = await ask(listed, agent, token);
assert.deepEqual([found.status, found.body?.data?.type], [200, "agent"], JSON.stringify(found));
const list = await ask(listed, agent, token, "POST", "agents/accounts");
assert.deepEqual([list.status, list.body?.data?.accounts?.[0]?.account?.type], [200, "agent"], JSON.stringify(list));
const missing = await ask(listed, "a0000000-0000-4000-8000-00000000dead", token);
assert.deepEqual([missing.status, missing.body?.code], [404, "NOT_FOUND"], JSON.stringify(missing));
const refused = await ask(listed, agent, "garbage");
assert.deepEqual([refused.status, refused.challenge], [401, 'Bearer error="invalid_token"'], JSON.stringify(refused));
for (const attempt of [await ask(other, agent, token), await ask(other, agent, token, "POST", "agents/accounts"), await ask(other, agent)]) {
  assert.deepEqual(attempt, { error: "TypeError" });
}

console.log("A page on a listed origin reads answers and errors, and one on another origin none.");
await browser.close();
servers.forEach((server) => server.close());
