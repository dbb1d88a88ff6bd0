namespace CalcomAccounts.Application;

/// <summary>
/// Who asks, and which organizations that reaches: one organization, or all that a subject is a member of, or the one
/// of these that a query named. A caller that reaches nothing can't be made.
/// </summary>
public sealed record Caller
{
    private Caller(Guid? orgId, string? subject) => (OrgId, Subject) = (orgId, subject);

    /// <summary>The one organization in reach; null when any organization of <see cref="Subject"/> is.</summary>
    public Guid? OrgId { get; }

    /// <summary>Who has to be a member of the agent's organization; null when the token itself names the organization.</summary>
    public string? Subject { get; }

    /// <summary>A caller whose token names its organization: <c>org_id</c> in the query is ignored.</summary>
    public static Caller OfOrganization(Guid orgId) => new(orgId, subject: null);

    /// <summary>A caller whose token names no organization: it reaches those that <paramref name="subject"/> is a member of.</summary>
    /// <exception cref="ArgumentException"><paramref name="subject"/> is null or empty.</exception>
    public static Caller OfSubject(string subject)
    {
        ArgumentException.ThrowIfNullOrEmpty(subject);
        return new(orgId: null, subject);
    }

    /// <summary>The same caller, reaching <paramref name="orgId"/> only. It never reaches more than before.</summary>
    public Caller NarrowedTo(Guid orgId) => Subject is null ? this : new(orgId, Subject);
}
