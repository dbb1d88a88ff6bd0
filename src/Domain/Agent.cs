namespace CalcomAccounts.Domain;

/// <summary>What the effective-account policy needs to know of one agent.</summary>
/// <param name="Keys">The agent's own private keys, connected or not, in no particular order.</param>
/// <param name="LinkedAccountId">What the agent is linked to, whether it is there or not; <see langword="null"/> when to none.</param>
/// <param name="LinkedAccount">
/// The account of the agent's own organization that the agent is linked to; <see langword="null"/> when it is linked
/// to none, or to one that is missing or belongs to another organization.
/// </param>
public sealed record Agent(IReadOnlyList<CalcomAccount> Keys, Guid? LinkedAccountId, CalcomAccount? LinkedAccount);

/// <summary>One stored Cal.com account: an agent's private key or an org-level account. It never holds the key itself.</summary>
/// <param name="Id"><c>agent_keys.id</c> or <c>org_accounts.id</c>.</param>
/// <param name="Name">As stored; may be null or blank.</param>
/// <param name="HasApiKey">Whether the account has a usable credential.</param>
/// <param name="ApiBaseUrl">As stored, chosen by the tenant; may be null or blank.</param>
/// <param name="Status">As stored; may be null, blank, or a word that this service has never heard of.</param>
/// <param name="CreatedAt">In UTC; <see langword="null"/>, which only a view can hold, is older than any other.</param>
public sealed record CalcomAccount(
    Guid Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
{
    /// <summary>
    /// Whether somebody has disconnected the account. One in trouble (<c>error</c>, or any status unknown here) stays connected,
    /// so that its trouble is seen.
    /// </summary>
    public bool IsDisconnected => Status?.Trim().ToUpperInvariant() is "INACTIVE" or "NOT_CONNECTED";
}
