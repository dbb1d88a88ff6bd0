namespace CalcomAccounts.Tests.Support;

/// <summary>docs/account-resolution.md: the stored states of an account.</summary>
internal static class AccountStates
{
    /// <summary>Has an API key, stored status, whether it counts as connected, returned status.</summary>
    public static (bool HasApiKey, string? Status, bool Connected, string Returned)[] All { get; } =
    [
        (true, "active", true, "active"),
        (true, "error", true, "error"),
        (true, "never heard of", true, "never heard of"),
        (true, " Active ", true, " Active "),
        (true, "inactive now", true, "inactive now"),
        (true, null, true, "unknown"),
        (true, "", true, "unknown"),
        (true, " \t", true, "unknown"),
        (true, "inactive", false, ""),
        (true, "INACTIVE", false, ""),
        (true, " \tInactive\n", false, ""),
        (true, "not_connected", false, ""),
        (true, " Not_Connected ", false, ""),
        (false, "active", false, ""),
        (false, "error", false, ""),
        (false, null, false, ""),
        (false, "inactive", false, ""),
    ];
}
