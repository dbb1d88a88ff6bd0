-- One organization with an agent for each type of account, and a developer who is its member. The keys are made up.
-- Running it twice is harmless.
insert into calcom.org_accounts (id, org_id, account_name, api_key) values
    ('c0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-000000000001', 'Front desk', 'sample')
on conflict do nothing;

insert into calcom.agents (id, org_id, name, org_account_id) values
    ('a0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-000000000001', 'Own key',
     'c0000000-0000-4000-8000-000000000001'),
    ('a0000000-0000-4000-8000-000000000002', 'b0000000-0000-4000-8000-000000000001', 'Linked',
     'c0000000-0000-4000-8000-000000000001'),
    ('a0000000-0000-4000-8000-000000000003', 'b0000000-0000-4000-8000-000000000001', 'Neither', null)
on conflict do nothing;

insert into calcom.agent_keys (id, org_id, agent_id, account_name, api_key) values
    ('d0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-000000000001',
     'Dr. Ada''s calendar', 'sample')
on conflict do nothing;

insert into calcom.org_members (org_id, subject) values ('b0000000-0000-4000-8000-000000000001', 'developer')
on conflict do nothing;
