namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>Which of an organization's agents to read.</summary>
/// <param name="After">Those with greater ids; null for all.</param>
/// <param name="Count">How many at most.</param>
internal sealed record Page(Guid? After, int Count);
