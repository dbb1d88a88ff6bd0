namespace CalcomAccounts.Infrastructure;

/// <summary>How agents are read from the database: <c>docs/configuration.md</c>.</summary>
/// <param name="RequestTimeout">How long a request may take; the timeouts of connections and statements stay below it.</param>
/// <param name="MaxConcurrentStatements">How many shared statements may be in flight at once.</param>
/// <param name="MaxQueuedLookups">How many lookups may wait for one of these.</param>
/// <param name="IsDistributed">Whether the tables are distributed over several servers by organization.</param>
public sealed record LookupOptions(TimeSpan RequestTimeout, int MaxConcurrentStatements, int MaxQueuedLookups, bool IsDistributed)
{
    /// <summary>How many batches may have left their slots, as they take long.</summary>
    internal int MaxOverdueBatches => IsDistributed ? 8 : 0;

    /// <summary>How many statements of quarantined lookups may be in flight, each of another caller.</summary>
    internal int MaxIsolatedStatements => IsDistributed ? 4 : 1;
}
