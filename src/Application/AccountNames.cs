using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>The words that answers, the log and metrics share.</summary>
public static class AccountNames
{
    /// <summary>The word for a type.</summary>
    public static string Of(AccountType type) => type switch
    {
        AccountType.Agent => "agent",
        AccountType.OrgLinked => "org_linked",
        _ => "none",
    };

    /// <summary>The word for a reason.</summary>
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
