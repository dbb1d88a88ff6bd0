namespace CalcomAccounts.Domain;

/// <summary>An account that was evaluated: one of the agent's own keys, or its link.</summary>
/// <param name="Type">Never <see cref="AccountType.None"/>.</param>
/// <param name="Id">The <see cref="CalcomAccount.Id"/>; null when the agent is not linked.</param>
/// <param name="Status">As <see cref="EffectiveAccount.Status"/>; null when the link leads to no account.</param>
/// <param name="Reason">Why it is used or not.</param>
public sealed record Candidate(AccountType Type, Guid? Id, string? Status, Reason Reason);
