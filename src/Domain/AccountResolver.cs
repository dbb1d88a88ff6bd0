namespace CalcomAccounts.Domain;

/// <summary>The rule of <c>docs/account-resolution.md</c>: which Cal.com account an agent uses right now.</summary>
public static class AccountResolver
{
    /// <summary>
    /// Evaluates the agent's own keys, newest first, then the account that it is linked to. The first connected one is the effective
    /// account; without one the result is <see cref="EffectiveAccount.None"/>.
    /// </summary>
    public static Decision Decide(Agent agent)
    {
        var candidates = new List<Candidate>(agent.Keys.Count + 1);
        var effective = EffectiveAccount.None;
        foreach (var key in agent.Keys.OrderByDescending(key => key.CreatedAt).ThenByDescending(key => key.Id))
        {
            Evaluate(AccountType.Agent, key);
        }

        if (agent.LinkedAccount is { } linked)
        {
            Evaluate(AccountType.OrgLinked, linked);
        }
        else
        {
            var reason = agent.LinkedAccountId is null ? Reason.NotLinked : Reason.Unavailable;
            candidates.Add(new(AccountType.OrgLinked, agent.LinkedAccountId, Status: null, reason));
        }

        return new(effective, candidates);

        void Evaluate(AccountType type, CalcomAccount account)
        {
            // The status does not matter beyond that: a key with status 'error' is used rather than another account, so that
            // nothing is booked into the wrong calendar.
            var reason = account.IsDisconnected ? Reason.Inactive
                : !account.HasApiKey ? Reason.NoCredential
                : effective.Type is not AccountType.None ? Reason.Outranked
                : Reason.Used;
            if (reason is Reason.Used)
            {
                effective = EffectiveAccount.From(type, account);
            }

            candidates.Add(new(type, account.Id, EffectiveAccount.StatusOf(account), reason));
        }
    }
}
