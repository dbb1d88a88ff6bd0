// The OpenAPI page in a real browser, as a reader uses it: authorize, try the operation for each outcome, read the answer.
// Usage: node swagger-page.mjs URL CHROMIUM SCREENSHOTS, and the token in TOKEN.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [url, executablePath, screenshots] = process.argv.slice(2);
const agent = (end) => `a0000000-0000-4000-8000-${end}`;

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 1600 }, ignoreHTTPSErrors: true });
const problems = [];
page.on("pageerror", (error) => problems.push(error.message));
page.on("requestfailed", (request) => problems.push(`${request.url()} ${request.failure().errorText}`));

await page.goto(`${url}/swagger`);
const operation = page.locator("#operations-CalComService-GetAgentCalcomAccount");
await operation.locator(".opblock-summary-control").click();
await operation.getByRole("button", { name: "Try it out" }).click();

async function ask(name, agentId, status, expected) {
  await operation.locator("[data-param-name=agent_id] input").fill(agentId);
  await operation.getByRole("button", { name: "Execute" }).click();
  const answer = operation.locator(".live-responses-table .response").first();
  await answer.locator(".response-col_status", { hasText: String(status) }).waitFor();
  const body = JSON.parse(await answer.locator(".response-col_description code").first().innerText());
  assert.deepEqual({ type: body.data?.type, code: body.code }, { type: undefined, code: undefined, ...expected }, name);

  // Without the command line that the page offers, as it has the token in it.
  await page.addStyleTag({ content: ".curl-command { display: none }" });
  await operation.screenshot({ path: `${screenshots}/${name}.png` });
  await operation.getByRole("button", { name: "Clear" }).click();
  console.log(`${name}: ${status} ${JSON.stringify(expected)}`);
}

await ask("unauthorized", agent("000000000001"), 401, {});

await page.getByRole("button", { name: "Authorize" }).first().click();
const dialog = page.locator(".dialog-ux");
await dialog.locator("#auth-bearer-value").fill(process.env.TOKEN);
await dialog.locator("form", { has: page.locator("#auth-bearer-value") }).getByRole("button", { name: "Apply credentials" }).click();
await dialog.getByRole("button", { name: "Close" }).first().click();

await ask("agent", agent("000000000001"), 200, { type: "agent" });
await ask("org_linked", agent("000000000002"), 200, { type: "org_linked" });
await ask("none", agent("000000000003"), 200, { type: "none" });
await ask("invalid_request", "garbage", 400, { code: "INVALID_REQUEST" });
await ask("not_found", agent("00000000dead"), 404, { code: "NOT_FOUND" });

// The list of an organization's agents, with a filter.
const list = page.locator("#operations-CalComService-ListAgentCalcomAccounts");
await list.locator(".opblock-summary-control").click();
await list.getByRole("button", { name: "Try it out" }).click();
await list.locator("[data-param-name=org_id] input").fill("b0000000-0000-4000-8000-000000000001");
await list.locator("[data-param-name=type] select").selectOption("org_linked");
await list.getByRole("button", { name: "Execute" }).click();
const listed = list.locator(".live-responses-table .response").first();
await listed.locator(".response-col_status", { hasText: "200" }).waitFor();
const { data } = JSON.parse(await listed.locator(".response-col_description code").first().innerText());
assert.deepEqual(data.accounts.map(({ agent_name }) => agent_name), ["Linked"]);
console.log("list: 200 of type org_linked");

await browser.close();
assert.deepEqual(problems, []);
