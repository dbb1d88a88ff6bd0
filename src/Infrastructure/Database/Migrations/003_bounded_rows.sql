-- The indexes that AgentReader.cs needs: the first has the condition of a connected key, the second the order of the others. The statements
-- that lock out readers come last, after the slow ones.
create unique index agent_keys_connected on calcom.agent_keys (agent_id)
    where has_api_key and (left(status, 2048) collate "C" !~* '^[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*(inactive|not_connected)[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$') is not false;
create index agent_keys_agent_id_created_at_id on calcom.agent_keys (agent_id, created_at desc nulls last, id desc);

drop index calcom.agent_keys_one_connected_per_agent;
alter index calcom.agent_keys_connected rename to agent_keys_one_connected_per_agent;
drop index calcom.agent_keys_agent_id;

-- NOT VALID: existing rows with longer values stay as they are, and 'check' counts them.
alter table calcom.agent_keys
    add constraint agent_keys_account_name_length check (length(account_name) <= 255) not valid,
    add constraint agent_keys_status_length check (length(status) <= 64) not valid,
    add constraint agent_keys_api_base_url_length check (length(api_base_url) <= 2048) not valid;
alter table calcom.org_accounts
    add constraint org_accounts_account_name_length check (length(account_name) <= 255) not valid,
    add constraint org_accounts_status_length check (length(status) <= 64) not valid,
    add constraint org_accounts_api_base_url_length check (length(api_base_url) <= 2048) not valid;
