namespace CalcomAccounts.Application;

/// <summary>
/// Whose organizations a request may read: one organization, every organization that a subject is a member of, or the one of these
/// that the query named. See <c>docs/account-resolution.md</c>.
/// </summary>
public sealed record Caller
{
    private Caller(Guid? orgId, string? subject) => (OrgId, Subject) = (orgId, subject);

    /// <summary>The only organization that may be read; null when every organization of <see cref="Subject"/> may.</summary>
    public Guid? OrgId { get; }

    /// <summary>Who has to be a member of the agent's organization; null when the token itself names the organization.</summary>
    public string? Subject { get; }

    /// <summary>A caller whose token names its organization.</summary>
    public static Caller OfOrganization(Guid orgId) => new(orgId, subject: null);

    /// <summary>A caller whose token names no organization.</summary>
    /// <exception cref="ArgumentException"><paramref name="subject"/> is null or empty.</exception>
    public static Caller OfSubject(string subject)
    {
        ArgumentException.ThrowIfNullOrEmpty(subject);
        return new(orgId: null, subject);
    }

    /// <summary>
    /// The same caller, restricted to <paramref name="orgId"/>. A caller whose token names its organization stays as it is.
    /// </summary>
    public Caller NarrowedTo(Guid orgId) => Subject is null ? this : new(orgId, Subject);
}
