using System.Diagnostics;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>The requests that share one statement.</summary>
internal sealed class Batch
{
    /// <param name="requests">At least one.</param>
    /// <param name="slot">Where the statement runs.</param>
    /// <param name="isRetry">Whether it retries, for one caller, a part of a batch that failed.</param>
    public Batch(List<PendingRequest> requests, Slot slot, bool isRetry)
    {
        (Requests, Slot, IsRetry) = (requests, slot, isRetry);
        Lookups = requests is [var one] ? one.Lookups : [.. requests.SelectMany(request => request.Lookups).Distinct()];
        IsIndivisible = requests.TrueForAll(request => request.HasSameLookups(requests[0]));
        requests.ForEach(request => request.Batch = this);
    }

    public List<PendingRequest> Requests { get; }

    /// <summary>That of all requests.</summary>
    public StatementKey Statement => Requests[0].Statement;

    public Slot Slot { get; }

    public bool IsRetry { get; }

    /// <summary>Without duplicates.</summary>
    public IReadOnlyList<Lookup> Lookups { get; }

    /// <summary>Whether all requests have the same lookups, so that it can't be split to find the one that fails.</summary>
    public bool IsIndivisible { get; }

    public CancellationTokenSource Cancellation { get; } = new();

    /// <summary>A timestamp of <see cref="Stopwatch"/>.</summary>
    public long Started { get; } = Stopwatch.GetTimestamp();

    /// <summary>Completed when the pool has handed out a session for the statement.</summary>
    public TaskCompletionSource Connected { get; } = new();

    /// <summary>Completed when, having left its slot, it has to end so that another batch can leave its own.</summary>
    public TaskCompletionSource Displaced { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Whether the statement was cancelled for taking too long.</summary>
    public bool HasTimedOut { get; set; }

    /// <summary>Whether another batch may run in its slot while its statement goes on.</summary>
    public bool HasLeftSlot { get; set; }
}

/// <summary>The kinds of concurrency slots; each slot runs one statement at a time.</summary>
internal enum Slot
{
    /// <summary>One of <see cref="LookupOptions.MaxConcurrentStatements"/>, for batches of all callers.</summary>
    Shared,

    /// <summary>One of <see cref="LookupOptions.MaxIsolatedStatements"/> beside these, for batches that must not hold up other callers.</summary>
    Isolated,

    /// <summary>The one slot beside these for pages of an organization's agents, of which each has a statement of its own.</summary>
    Pages,
}
