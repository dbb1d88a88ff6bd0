-- The role of the service's login: it can read every column but api_key, and write nothing.
do $$
begin
    if not exists (select from pg_roles where rolname = 'calcom_reader') then
        create role calcom_reader nologin;
    end if;
exception
    -- Roles are shared by all databases of a server, so a migration of another database may have created it meanwhile.
    when duplicate_object or unique_violation then null;
end
$$;

grant usage on schema calcom to calcom_reader;
grant select (id, org_id, name, org_account_id, deleted_at) on calcom.agents to calcom_reader;
grant select (id, agent_id, account_name, has_api_key, api_base_url, status, created_at)
    on calcom.agent_keys to calcom_reader;
grant select (id, org_id, account_name, has_api_key, api_base_url, status, created_at)
    on calcom.org_accounts to calcom_reader;
grant select (org_id, subject) on calcom.org_members to calcom_reader;
