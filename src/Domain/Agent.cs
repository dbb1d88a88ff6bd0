namespace CalcomAccounts.Domain;

/// <summary>What <see cref="AccountResolver"/> needs to know of one agent.</summary>
/// <param name="Keys">The agent's own private keys, connected or not, in no particular order.</param>
/// <param name="LinkedAccountId">The id that the agent is linked to, whether that account exists or not; null when not linked.</param>
/// <param name="LinkedAccount">
/// The linked account, if it exists and belongs to the agent's own organization; otherwise null.
/// </param>
public sealed record Agent(IReadOnlyList<CalcomAccount> Keys, Guid? LinkedAccountId, CalcomAccount? LinkedAccount);
