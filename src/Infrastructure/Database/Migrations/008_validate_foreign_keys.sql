-- Apart from the step before, which locks out readers: this one takes long, and locks out nobody.
alter table calcom.agents validate constraint agents_linked_account_is_of_same_org;
alter table calcom.agent_keys validate constraint agent_keys_agent_is_of_same_org;
