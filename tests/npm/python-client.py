# Calls every operation with the Python client of docs/clients.md. Usage: python3 python-client.py URL, and the token in TOKEN.
import json
import os
import sys

import calcom_accounts

configuration = calcom_accounts.Configuration(host=sys.argv[1])
configuration.access_token = os.environ["TOKEN"]
api = calcom_accounts.CalComServiceApi(calcom_accounts.ApiClient(configuration))
own, linked, none, unknown = (f"a0000000-0000-4000-8000-{end}" for end in ("000000000001", "000000000002", "000000000003", "00000000dead"))


def equal(name, actual, expected):
    assert actual == expected, f"{name}: {actual} is not {expected}"
    print(f"{name}: {actual}")


for agent, expected in (own, (True, "agent", "active")), (linked, (True, "org_linked", "active")), (none, (False, "none", None)):
    account = api.get_agent_calcom_account(agent).data
    equal("account", (account.connected, account.type, account.status), expected)

explanation = api.explain_agent_calcom_account(own).data
equal("effective", (explanation.effective.connected, explanation.effective.type), (True, "agent"))
equal("candidates", [(candidate.type, candidate.reason) for candidate in explanation.candidates], [("agent", "used"), ("org_linked", "outranked")])

request = calcom_accounts.GetAgentCalcomAccountsRequest(agent_ids=[linked, unknown])
accounts = api.get_agent_calcom_accounts(request).data.accounts
equal("list", [(one.agent_id, one.account and one.account.type) for one in accounts], [(linked, "org_linked"), (unknown, None)])

try:
    equal("unknown agent", api.get_agent_calcom_account(unknown), None)
except calcom_accounts.ApiException as error:
    equal("unknown agent", (error.status, json.loads(error.body)["code"]), (404, "NOT_FOUND"))
