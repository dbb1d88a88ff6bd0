-- The slow part of the next step, which locks out writers, but no readers. The condition is that of a connected key in AgentReader.cs.
lock table calcom.org_accounts, calcom.agents, calcom.agent_keys, calcom.org_members in share mode;

alter table calcom.agent_keys validate constraint agent_keys_org_id_not_null;

create index org_members_subject_org_id on calcom.org_members (subject, org_id);
create unique index org_accounts_org_id_id_key on calcom.org_accounts (org_id, id);
create unique index agents_org_id_id_key on calcom.agents (org_id, id);
create index agents_id on calcom.agents (id);
create index agents_org_id_id_not_deleted on calcom.agents (org_id, id) where deleted_at is null;
create unique index agent_keys_org_id_id_key on calcom.agent_keys (org_id, id);
create unique index agent_keys_connected on calcom.agent_keys (org_id, agent_id)
    where has_api_key and (left(status, 2048) collate "C" !~* '^[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*(inactive|not_connected)[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$') is not false;
create index agent_keys_org_id_agent_id_created_at_id on calcom.agent_keys (org_id, agent_id, created_at desc nulls last, id desc);
