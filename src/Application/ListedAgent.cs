using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>An agent of an organization.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Name">As stored; empty where nothing is.</param>
/// <param name="Agent">With no more than the best-ranked of its keys.</param>
public sealed record ListedAgent(Guid Id, string Name, Agent Agent);
