-- The organization in every primary and foreign key, so that no key belongs to another organization's agent, and the tables can be
-- distributed by it. Each statement is quick, as it locks out readers. The first lock is as in 004.
set local lock_timeout = '1500ms';
lock table calcom.agent_keys, calcom.agents, calcom.org_accounts in share update exclusive mode;
set local lock_timeout = '300ms';
lock table calcom.agent_keys, calcom.agents, calcom.org_accounts in access exclusive mode;

-- In a statement of its own, so that the constraint spares the reading of all rows.
alter table calcom.agent_keys alter column org_id set not null;

-- The index agent_keys_agent_id_created_at_id stays for the version before, which may still run.
alter table calcom.agent_keys
    drop constraint agent_keys_agent_id_fkey,
    drop constraint agent_keys_org_id_not_null,
    drop constraint agent_keys_pkey,
    add constraint agent_keys_pkey primary key using index agent_keys_org_id_id_key,
    add constraint agent_keys_account_name_length check (length(account_name) <= 255) not valid,
    add constraint agent_keys_status_length check (length(status) <= 64) not valid,
    add constraint agent_keys_api_base_url_length check (length(api_base_url) <= 2048) not valid;
drop index calcom.agent_keys_one_connected_per_agent;
alter index calcom.agent_keys_connected rename to agent_keys_one_connected_per_agent;

alter table calcom.agents
    drop constraint agents_linked_account_is_of_same_org,
    drop constraint agents_pkey,
    add constraint agents_pkey primary key using index agents_org_id_id_key;
alter table calcom.org_accounts
    drop constraint org_accounts_org_id_id,
    drop constraint org_accounts_pkey,
    add constraint org_accounts_pkey primary key using index org_accounts_org_id_id_key;

alter table calcom.agents
    add constraint agents_linked_account_is_of_same_org
        foreign key (org_id, org_account_id) references calcom.org_accounts (org_id, id) not valid;
alter table calcom.agent_keys
    add constraint agent_keys_agent_is_of_same_org
        foreign key (org_id, agent_id) references calcom.agents (org_id, id) not valid;
