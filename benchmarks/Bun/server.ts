// What somebody would write who builds the same operation with Bun: two processes on one port, its own PostgreSQL client, fast-jwt with its
// cache. One query a request, the policy of docs/account-resolution.md; no log, no limits, no metrics. Usage: bun server.ts --urls URL
import { createPublicKey } from "node:crypto";
import { SQL } from "bun";
import { createVerifier } from "fast-jwt";

const env = (name: string) => process.env[`Authentication__Schemes__Bearer__${name}`]!;
if (!process.env.WORKER) {
    const workers = [1, 2].map(() => Bun.spawn([process.execPath, ...process.argv.slice(1)], { env: { ...process.env, WORKER: "1" }, stdio: ["ignore", "ignore", "inherit"] }));
    process.on("SIGTERM", () => workers.forEach(worker => worker.kill()));
    await Promise.all(workers.map(worker => worker.exited));
    process.exit();
}

async function readKey() {
    if (env("SigningKeys__0__Value")) {
        return { key: Buffer.from(env("SigningKeys__0__Value"), "base64"), issuer: env("ValidIssuer") };
    }

    const { issuer, jwks_uri } = await (await fetch(`${env("Authority")}/.well-known/openid-configuration`)).json();
    const { keys } = await (await fetch(jwks_uri)).json();
    return { key: createPublicKey({ key: keys[0], format: "jwk" }).export({ type: "spki", format: "pem" }), issuer };
}

const { key, issuer } = await readKey();
const verify = createVerifier({ key, allowedIss: issuer, allowedAud: env("ValidAudience"), cache: 50_000 });
const sql = new SQL({
    adapter: "postgres",
    path: `${process.env.PGHOST}/.s.PGSQL.${process.env.PGPORT}`,
    username: process.env.PGUSER,
    password: process.env.PGPASSWORD,
    database: process.env.PGDATABASE,
    connection: { application_name: "bun" },
    max: 8,
});

const text = (value: string | null, otherwise: string) => value?.trim() ? value : otherwise;
const isConnected = (account: any) => account.has_api_key && !/^\s*(inactive|not_connected)\s*$/i.test(account.status ?? "");
const answer = (status: number, message: string, data?: object) => Response.json({ success: status === 200, message, data }, { status });

Bun.serve({
    hostname: "127.0.0.1",
    port: new URL(process.argv[process.argv.indexOf("--urls") + 1]).port,
    reusePort: true,
    routes: {
        "/api/v1/calcom/agents/:agentId/account": async request => {
            let orgId: string;
            try {
                orgId = verify((request.headers.get("authorization") ?? "").replace("Bearer ", "")).org_id;
            } catch {
                return answer(401, "A valid JWT is required, as 'Authorization: Bearer <token>'");
            }

            const accounts = await sql`
                select account.*
                from calcom.agents agent
                left join lateral (
                    (select false as is_linked, id, account_name, has_api_key, api_base_url, status
                     from calcom.agent_keys
                     where org_id = agent.org_id and agent_id = agent.id
                     order by created_at desc nulls last, id desc)
                    union all
                    select true, id, account_name, has_api_key, api_base_url, status
                    from calcom.org_accounts
                    where org_id = agent.org_id and id = agent.org_account_id
                ) account on true
                where agent.id = ${request.params.agentId} and agent.org_id = ${orgId} and agent.deleted_at is null`;
            if (accounts.length === 0) {
                return answer(404, "Agent not found");
            }

            const account = accounts.find(isConnected);
            return answer(200, "Agent Cal.com account retrieved", account
                ? {
                    connected: true,
                    type: account.is_linked ? "org_linked" : "agent",
                    calcom_account_id: account.id,
                    account_name: text(account.account_name, "Default"),
                    status: text(account.status, "unknown"),
                    api_base_url: text(account.api_base_url, "https://api.cal.com"),
                }
                : { connected: false, type: "none" });
        },
    },
});
