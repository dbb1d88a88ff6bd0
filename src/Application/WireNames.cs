using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>The names of enum members in responses, the log, traces and metrics.</summary>
public static class WireNames
{
    /// <summary>As in <c>docs/account-resolution.md</c>.</summary>
    public static string Of(AccountType type) => type switch
    {
        AccountType.Agent => "agent",
        AccountType.OrgLinked => "org_linked",
        _ => "none",
    };

    /// <summary>As in <c>docs/api.md</c>.</summary>
    public static string Of(Reason reason) => reason switch
    {
        Reason.Used => "used",
        Reason.Outranked => "outranked",
        Reason.Inactive => "inactive",
        Reason.NoCredential => "no_credential",
        Reason.NotLinked => "not_linked",
        _ => "unavailable",
    };
}
