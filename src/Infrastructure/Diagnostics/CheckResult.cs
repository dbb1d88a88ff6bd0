namespace CalcomAccounts.Infrastructure.Diagnostics;

/// <summary>The result of one check of docs/database.md.</summary>
/// <param name="Name">In snake_case; the relation's name if a single relation is checked.</param>
/// <param name="Ok">Whether the check has passed.</param>
/// <param name="Detail">For an operator: what was found and, if the check has failed, what to do. It has neither data nor secrets.</param>
public sealed record CheckResult(string Name, bool Ok, string Detail);
