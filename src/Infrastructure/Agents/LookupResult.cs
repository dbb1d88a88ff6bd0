using CalcomAccounts.Domain;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>What one lookup found; the default when its caller can't see such an agent.</summary>
/// <param name="OrgId">
/// Only on a distributed database, for a caller without an organization: the agent's organization, by which the agent can be read.
/// </param>
/// <param name="Agent">Otherwise: the agent.</param>
internal readonly record struct LookupResult(Guid? OrgId, Agent? Agent);
