namespace CalcomAccounts.Application;

/// <summary>The caller, and the organizations that its request named beside its token.</summary>
/// <param name="Caller">As the token says.</param>
/// <param name="OrgIds">Every <c>org_id</c> as it was sent; ignored where the token names an organization.</param>
public sealed record OrganizationScope(Caller Caller, IReadOnlyList<string?> OrgIds)
{
    internal const string ValidationMessage = "org_id must be a UUID, given once";

    internal bool IsValid => EffectiveOrgIds.Count <= 1 && EffectiveOrgIds.All(Uuid.IsValid);

    private IReadOnlyList<string?> EffectiveOrgIds => Caller.Subject is null ? [] : OrgIds;

    /// <summary>The caller, restricted to the organization that the request named, if any.</summary>
    internal Caller ToCaller() => EffectiveOrgIds is [var orgId] ? Caller.NarrowedTo(Uuid.Parse(orgId)) : Caller;
}
