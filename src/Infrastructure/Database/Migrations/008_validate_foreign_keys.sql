-- Apart from the step before, which locks out readers: this one takes long, and locks out nobody.

-- The keys of agents that were given to another organization since 005.
update calcom.agent_keys
set org_id = agents.org_id
from calcom.agents
where agents.id = agent_keys.agent_id and agents.org_id <> agent_keys.org_id;

alter table calcom.agents validate constraint agents_linked_account_is_of_same_org;
alter table calcom.agent_keys validate constraint agent_keys_agent_is_of_same_org;
analyze calcom.agent_keys;
