namespace CalcomAccounts.Domain;

/// <summary>Where an account comes from.</summary>
public enum AccountType
{
    /// <summary>There is no effective account.</summary>
    None,

    /// <summary>The agent's own private key.</summary>
    Agent,

    /// <summary>The organization's account that the agent is linked to.</summary>
    OrgLinked,
}
