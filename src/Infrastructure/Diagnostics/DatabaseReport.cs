namespace CalcomAccounts.Infrastructure.Diagnostics;

/// <summary>The result of <see cref="DatabaseCheck"/>, which <c>check --json</c> prints as it is.</summary>
/// <param name="Database">The servers and the database, without user and password.</param>
/// <param name="Checks">In the order in which they ran.</param>
/// <param name="Data">Null if a check that counting depends on has failed.</param>
public sealed record DatabaseReport(string Database, IReadOnlyList<CheckResult> Checks, DatabaseCounts? Data)
{
    /// <summary>Whether every check has passed.</summary>
    public bool Ok => Checks.All(check => check.Ok);
}
