namespace CalcomAccounts.Domain;

/// <summary>The effective-account policy: which Cal.com account an agent uses right now.</summary>
public static class AccountResolver
{
    /// <summary>
    /// The agent's own connected key, else its connected linked account, else <see cref="EffectiveAccount.None"/>.
    /// Nothing else is a fallback, and a key in trouble still wins: an agent whose own key broke must not book into
    /// another calendar unnoticed.
    /// </summary>
    public static EffectiveAccount Resolve(Agent agent)
    {
        var ownKey = agent.Keys
            .Where(key => key.IsConnected)
            .OrderByDescending(key => key.CreatedAt)
            .ThenByDescending(key => key.Id)
            .FirstOrDefault();

        return (ownKey, agent.LinkedAccount) switch
        {
            ({ } key, _) => Describe(AccountType.Agent, key),
            (null, { IsConnected: true } linked) => Describe(AccountType.OrgLinked, linked),
            _ => EffectiveAccount.None,
        };
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
