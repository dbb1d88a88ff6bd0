namespace CalcomAccounts.Domain;

/// <summary>The result of <see cref="AccountResolver"/>, with the reason for it.</summary>
/// <param name="Effective">The account that the agent uses, or <see cref="EffectiveAccount.None"/>.</param>
/// <param name="Candidates">All that were evaluated, in order of precedence; the link is always the last.</param>
public sealed record Decision(EffectiveAccount Effective, IReadOnlyList<Candidate> Candidates);
