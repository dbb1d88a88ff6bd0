namespace CalcomAccounts.Domain;

/// <summary>A stored Cal.com account: an agent's private key or an account of its organization. It never holds the key itself.</summary>
/// <param name="Id"><c>agent_keys.id</c> or <c>org_accounts.id</c>.</param>
/// <param name="Name">As stored; may be null or blank.</param>
/// <param name="HasApiKey">Whether the account has a usable credential.</param>
/// <param name="ApiBaseUrl">As stored, chosen by the tenant; may be null or blank.</param>
/// <param name="Status">As stored; may be null, blank, or a word that this service does not know.</param>
/// <param name="CreatedAt">In UTC. Null, which only a view can hold, counts as older than any other.</param>
public sealed record CalcomAccount(
    Guid Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
{
    /// <summary>
    /// Whether the account was disconnected. Any other status, <c>error</c> or unknown ones included, leaves it connected.
    /// </summary>
    public bool IsDisconnected => Comparable(Status) is "INACTIVE" or "NOT_CONNECTED";

    /// <summary>A status in the form in which statuses are compared: trimmed, in any letter case. Null stays null.</summary>
    public static string? Comparable(string? status) => status?.Trim().ToUpperInvariant();
}
