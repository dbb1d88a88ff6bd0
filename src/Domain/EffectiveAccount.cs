namespace CalcomAccounts.Domain;

/// <summary>The account that an agent uses right now. Without one, all but <paramref name="Type"/> is null.</summary>
/// <param name="Type">Where it comes from.</param>
/// <param name="Id">The <see cref="CalcomAccount.Id"/>.</param>
/// <param name="Name">Never blank: a blank stored name becomes <c>Default</c>.</param>
/// <param name="Status">The stored status, unchanged; a blank one becomes <c>unknown</c>. It is not a live check of the key.</param>
/// <param name="ApiBaseUrl">Chosen by the tenant; a blank one becomes <c>https://api.cal.com</c>.</param>
public sealed record EffectiveAccount(AccountType Type, Guid? Id, string? Name, string? Status, string? ApiBaseUrl)
{
    /// <summary>No effective account.</summary>
    public static EffectiveAccount None { get; } = new(AccountType.None, null, null, null, null);

    internal static EffectiveAccount From(AccountType type, CalcomAccount account) => new(
        type,
        account.Id,
        DefaultIfBlank(account.Name, "Default"),
        StatusOf(account),
        DefaultIfBlank(account.ApiBaseUrl, "https://api.cal.com"));

    internal static string StatusOf(CalcomAccount account) => DefaultIfBlank(account.Status, "unknown");

    private static string DefaultIfBlank(string? stored, string defaultValue) => string.IsNullOrWhiteSpace(stored) ? defaultValue : stored;
}
