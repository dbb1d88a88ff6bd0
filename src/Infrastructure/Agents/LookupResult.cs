using CalcomAccounts.Domain;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>What one lookup found.</summary>
/// <param name="Agent">The agent; null when its caller can't see such an agent, and for the other kinds of statements.</param>
/// <param name="OrgIds">Of <see cref="StatementKind.Memberships"/> and <see cref="StatementKind.AgentOrganization"/>, in ascending order.</param>
internal readonly record struct LookupResult(Agent? Agent, IReadOnlyList<Guid>? OrgIds = null);
