using CalcomAccounts.Application;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>What identifies a caller for fair shares: the token's organization, or else its subject, whatever <c>org_id</c> the query has.</summary>
internal readonly record struct CallerKey(Guid? OrgId, string? Subject)
{
    public CallerKey(Caller caller)
        : this(caller.Subject is null ? caller.OrgId : null, caller.Subject)
    {
    }
}
