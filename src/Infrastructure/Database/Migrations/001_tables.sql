-- As in docs/database.md. Names, URLs and statuses may be null: docs/account-resolution.md says what a blank one means.
create table calcom.org_accounts (
    id           uuid        primary key default gen_random_uuid(),
    org_id       uuid        not null,
    account_name text        default 'Default',
    api_key      text,
    has_api_key  boolean     not null generated always as (coalesce(btrim(api_key), '') <> '') stored,
    api_base_url text        default 'https://api.cal.com',
    status       text        default 'active',
    created_at   timestamptz not null default now(),
    constraint org_accounts_org_id_id unique (org_id, id)
);

create table calcom.agents (
    id             uuid primary key default gen_random_uuid(),
    org_id         uuid not null,
    name           text not null default '',
    org_account_id uuid,
    deleted_at     timestamptz,
    constraint agents_linked_account_is_of_same_org
        foreign key (org_id, org_account_id) references calcom.org_accounts (org_id, id)
);

-- For the foreign key's check when an account is deleted.
create index agents_org_id_org_account_id on calcom.agents (org_id, org_account_id);

create table calcom.agent_keys (
    id           uuid        primary key default gen_random_uuid(),
    agent_id     uuid        not null references calcom.agents (id),
    account_name text        default 'Default',
    api_key      text,
    has_api_key  boolean     not null generated always as (coalesce(btrim(api_key), '') <> '') stored,
    api_base_url text        default 'https://api.cal.com',
    status       text        default 'active',
    created_at   timestamptz not null default now()
);

create index agent_keys_agent_id on calcom.agent_keys (agent_id);

-- The condition is 'connected' as in docs/account-resolution.md.
create unique index agent_keys_one_connected_per_agent on calcom.agent_keys (agent_id)
    where has_api_key and coalesce(status, '') !~* '^\s*(inactive|not_connected)\s*$';

create table calcom.org_members (
    org_id  uuid not null,
    subject text not null,
    primary key (org_id, subject)
);
