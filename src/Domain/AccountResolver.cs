namespace CalcomAccounts.Domain;

/// <summary>The effective-account policy: which Cal.com account an agent uses right now.</summary>
public static class AccountResolver
{
    /// <summary>
    /// Considers the agent's own keys, the newest first, then the account that it is linked to. The first that is connected is
    /// used, else <see cref="EffectiveAccount.None"/> is. Nothing else is a fallback, and a key in trouble still wins: an agent
    /// whose own key broke must not book into another calendar unnoticed.
    /// </summary>
    public static Decision Decide(Agent agent)
    {
        var candidates = new List<Candidate>(agent.Keys.Count + 1);
        var effective = EffectiveAccount.None;
        foreach (var key in agent.Keys.OrderByDescending(key => key.CreatedAt).ThenByDescending(key => key.Id))
        {
            Consider(AccountType.Agent, key);
        }

        if (agent.LinkedAccount is { } linked)
        {
            Consider(AccountType.OrgLinked, linked);
        }
        else
        {
            var reason = agent.LinkedAccountId is null ? Reason.NotLinked : Reason.Unavailable;
            candidates.Add(new(AccountType.OrgLinked, agent.LinkedAccountId, Status: null, reason));
        }

        return new(effective, candidates);

        void Consider(AccountType type, CalcomAccount account)
        {
            var reason = account.IsDisconnected ? Reason.Inactive
                : !account.HasApiKey ? Reason.NoCredential
                : effective.Type is not AccountType.None ? Reason.Outranked
                : Reason.Used;
            if (reason is Reason.Used)
            {
                effective = Describe(type, account);
            }

            candidates.Add(new(type, account.Id, OrWhenBlank(account.Status, "unknown"), reason));
        }
    }

    private static EffectiveAccount Describe(AccountType type, CalcomAccount account) => new(
        type,
        account.Id,
        OrWhenBlank(account.Name, "Default"),
        OrWhenBlank(account.Status, "unknown"),
        OrWhenBlank(account.ApiBaseUrl, "https://api.cal.com"));

    private static string OrWhenBlank(string? stored, string whenBlank) =>
        string.IsNullOrWhiteSpace(stored) ? whenBlank : stored;
}

/// <summary>The account an agent uses right now, and why it is that one.</summary>
/// <param name="Effective">What is used.</param>
/// <param name="Candidates">What was considered, in that order; the link is always the last.</param>
public sealed record Decision(EffectiveAccount Effective, IReadOnlyList<Candidate> Candidates);

/// <summary>One account that was considered.</summary>
/// <param name="Type">Where it comes from; never <see cref="AccountType.None"/>.</param>
/// <param name="Id">Its <see cref="CalcomAccount.Id"/>; null when the agent is not linked.</param>
/// <param name="Status">As <see cref="EffectiveAccount.Status"/>; null when there is no account to have one.</param>
/// <param name="Reason">Why it is used, or is not.</param>
public sealed record Candidate(AccountType Type, Guid? Id, string? Status, Reason Reason);

/// <summary>Why a candidate is used, or is not.</summary>
public enum Reason
{
    /// <summary>It is the effective account.</summary>
    Used,

    /// <summary>It is connected, and so is one that was considered before.</summary>
    Outranked,

    /// <summary>Somebody has disconnected it, which as a rule clears its key too.</summary>
    Inactive,

    /// <summary>It has no usable credential, though nobody has disconnected it.</summary>
    NoCredential,

    /// <summary>The agent is linked to no account.</summary>
    NotLinked,

    /// <summary>The agent is linked to an account that is missing or belongs to another organization.</summary>
    Unavailable,
}

/// <summary>Where an effective account comes from.</summary>
public enum AccountType
{
    /// <summary>There is no effective account.</summary>
    None,

    /// <summary>The agent's own private key.</summary>
    Agent,

    /// <summary>The organization's account that the agent is linked to.</summary>
    OrgLinked,
}

/// <summary>The account an agent uses right now. All but <paramref name="Type"/> is null exactly when there is none.</summary>
/// <param name="Type">Where it comes from.</param>
/// <param name="Id">The <see cref="CalcomAccount.Id"/> it was made from.</param>
/// <param name="Name">Never blank: <c>Default</c> stands for a blank one.</param>
/// <param name="Status">The stored status, unchanged; <c>unknown</c> stands for a blank one. Not a live check of the key.</param>
/// <param name="ApiBaseUrl">Data that a tenant chose; <c>https://api.cal.com</c> stands for a blank one.</param>
public sealed record EffectiveAccount(AccountType Type, Guid? Id, string? Name, string? Status, string? ApiBaseUrl)
{
    /// <summary>No effective account.</summary>
    public static EffectiveAccount None { get; } = new(AccountType.None, null, null, null, null);
}
