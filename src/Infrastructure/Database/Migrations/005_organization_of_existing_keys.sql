-- Apart from the step before, which locks out readers: this one takes long, and locks only rows.
update calcom.agent_keys
set org_id = agents.org_id
from calcom.agents
where agents.id = agent_keys.agent_id and agent_keys.org_id is null;
