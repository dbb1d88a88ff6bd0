namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>Which lookups may share a statement: those with the same key.</summary>
/// <param name="Kind">What the statement reads.</param>
/// <param name="OrgId">On a distributed database, where a statement reads the agents of one organization: that; otherwise null.</param>
internal readonly record struct StatementKey(StatementKind Kind, Guid? OrgId);

/// <summary>What a statement of lookups reads.</summary>
internal enum StatementKind
{
    /// <summary>The agents.</summary>
    Agents,

    /// <summary>A page of an organization's agents. No two pages share a statement.</summary>
    Page,

    /// <summary>On a distributed database: the organizations that the caller is a member of, if these are few.</summary>
    Memberships,

    /// <summary>On a distributed database: which of the caller's organizations the agent is of. It asks every server.</summary>
    AgentOrganization,
}
