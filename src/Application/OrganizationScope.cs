namespace CalcomAccounts.Application;

/// <summary>Who asks, and the organizations that the request named beside its token.</summary>
/// <param name="Caller">Who asks.</param>
/// <param name="OrgIds">Every <c>org_id</c> as it was sent. They count only where the token itself names no organization.</param>
public sealed record OrganizationScope(Caller Caller, IReadOnlyList<string?> OrgIds)
{
    internal const string ValidationMessage = "org_id must be a UUID, given once";

    internal bool IsValid => NeededOrgIds.Count <= 1 && NeededOrgIds.All(Uuid.IsValid);

    private IReadOnlyList<string?> NeededOrgIds => Caller.Subject is null ? [] : OrgIds;

    /// <summary>The caller, narrowed to the organization that the request named where that counts.</summary>
    internal Caller ToCaller() => NeededOrgIds is [var orgId] ? Caller.NarrowedTo(Uuid.Parse(orgId)) : Caller;
}
