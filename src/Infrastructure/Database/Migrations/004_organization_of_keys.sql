-- The organization of a key: its agent's. Writers that do not name it yet may go on: the trigger fills it in.
-- The first lock lets readers go on while it waits, long enough for PostgreSQL to end an autovacuum that would hold up the second.
set local lock_timeout = '1500ms';
lock table calcom.agent_keys in share update exclusive mode;
set local lock_timeout = '300ms';

alter table calcom.agent_keys
    -- Until existing rows have their organization: a row with a longer text could not be updated.
    drop constraint agent_keys_account_name_length,
    drop constraint agent_keys_status_length,
    drop constraint agent_keys_api_base_url_length,
    add column org_id uuid,
    add constraint agent_keys_org_id_not_null check (org_id is not null) not valid;

-- With its owner's privileges, as a writer of keys need not be able to read agents.
create function calcom.set_org_id_of_key() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    if new.org_id is null or (tg_op = 'UPDATE' and new.agent_id <> old.agent_id and new.org_id = old.org_id) then
        new.org_id := (select agent.org_id from calcom.agents agent where agent.id = new.agent_id);
    end if;
    return new;
end
$$;

create trigger agent_keys_set_org_id before insert or update on calcom.agent_keys
    for each row execute function calcom.set_org_id_of_key();

grant select (org_id) on calcom.agent_keys to calcom_reader;
