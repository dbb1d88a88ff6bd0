using CalcomAccounts.Application;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>An agent to look up, and the caller on whose behalf.</summary>
internal readonly record struct Lookup(Guid AgentId, Caller Caller);
