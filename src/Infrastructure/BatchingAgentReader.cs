using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using Npgsql;

namespace CalcomAccounts.Infrastructure;

/// <summary>
/// Lets lookups share round trips: only so many statements are in flight, and what arrives meanwhile goes with the next, in
/// the order of arrival. Nothing waits for a timer, and nothing is kept: each lookup is read after it has arrived.
/// </summary>
internal sealed class BatchingAgentReader(AgentReader reader, LookupLimits limits) : IAgentReader
{
    internal const int MaxBatch = 64;

    // Guards the queue, the count, and what each lookup went with.
    private readonly Lock _lock = new();
    private readonly LinkedList<PendingLookup> _queue = [];
    private int _inFlight;

    /// <inheritdoc/>
    /// <exception cref="InvalidOperationException">Too many lookups are queued already.</exception>
    public async Task<Agent?> FindAsync(Guid agentId, Caller caller, CancellationToken cancellationToken)
    {
        if (caller is { OrgId: null, Subject: null })
        {
            throw new ArgumentException("Reaches nothing.", nameof(caller));
        }

        // PostgreSQL's text can't hold a NUL, so no such subject is a member of anything.
        if (caller.Subject?.Contains('\0') is true)
        {
            return null;
        }

        var pending = new PendingLookup(new(agentId, caller));
        Enqueue(pending);
        try
        {
            return await pending.Task.WaitAsync(cancellationToken);
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            GiveUp(pending);
            throw;
        }
    }

    private void Enqueue(PendingLookup pending)
    {
        lock (_lock)
        {
            if (_queue.Count == limits.MaxQueuedLookups)
            {
                throw new InvalidOperationException($"{limits.MaxQueuedLookups} lookups are queued already.");
            }

            _queue.AddLast(pending.Node);
            if (_inFlight == limits.MaxStatementsInFlight)
            {
                return;
            }

            _inFlight++;
        }

        // Serves others' lookups too, so it carries no one request's trace on.
        using (ExecutionContext.SuppressFlow())
        {
            _ = SendAsync();
        }
    }

    private async Task SendAsync()
    {
        while (TakeNext() is { } batch)
        {
            await AnswerAsync(batch);

            // Requests that have arrived meanwhile come first, and go along.
            await Task.Yield();
        }
    }

    private Batch? TakeNext()
    {
        lock (_lock)
        {
            var lookups = new List<PendingLookup>(Math.Min(_queue.Count, MaxBatch));
            while (lookups.Count < MaxBatch && _queue.First is { } first)
            {
                _queue.RemoveFirst();
                lookups.Add(first.Value);
            }

            if (lookups is [])
            {
                _inFlight--;
                return null;
            }

            return Batch.Of(lookups);
        }
    }

    private async Task AnswerAsync(Batch batch)
    {
        try
        {
            var agents = await reader.ReadAsync(batch.Lookups.ConvertAll(pending => pending.Lookup), batch.Cancellation.Token);
            for (var i = 0; i < agents.Length; i++)
            {
                batch.Lookups[i].TrySetResult(agents[i]);
            }
        }
        catch (PostgresException exception) when (batch.Lookups.Count > 1 && !exception.IsTransient)
        {
            // One of them may be to blame, and no other may fail for it.
            foreach (var pending in batch.Lookups)
            {
                if (TakeAlone(pending) is { } alone)
                {
                    await AnswerAsync(alone);
                }
            }
        }
        catch (Exception exception)
        {
            foreach (var pending in batch.Lookups)
            {
                pending.TrySetException(exception);
            }
        }
    }

    private Batch? TakeAlone(PendingLookup pending)
    {
        lock (_lock)
        {
            return pending.Task.IsCompleted ? null : Batch.Of([pending]);
        }
    }

    /// <summary>Nobody waits for it any more. Where that is true of a whole batch, the server is told to end its statement.</summary>
    private void GiveUp(PendingLookup pending)
    {
        pending.TrySetCanceled();
        lock (_lock)
        {
            if (pending.Batch is not { } batch)
            {
                _queue.Remove(pending.Node);
            }
            else if (batch.Lookups.TrueForAll(other => other.Task.IsCanceled))
            {
                // Npgsql blocks while it sends that, for seconds where the server is frozen.
                _ = batch.Cancellation.CancelAsync();
            }
        }
    }

    // Its requests go on where the batch is answered, one after the other: to wake a thread for each would cost more than they do.
    private sealed class PendingLookup : TaskCompletionSource<Agent?>
    {
        public PendingLookup(Lookup lookup) => (Lookup, Node) = (lookup, new(this));

        public Lookup Lookup { get; }

        public LinkedListNode<PendingLookup> Node { get; }

        /// <summary>What it went with last; null while it is queued.</summary>
        public Batch? Batch { get; set; }
    }

    private sealed record Batch(List<PendingLookup> Lookups, CancellationTokenSource Cancellation)
    {
        public static Batch Of(List<PendingLookup> lookups)
        {
            var batch = new Batch(lookups, new());
            lookups.ForEach(pending => pending.Batch = batch);
            return batch;
        }
    }
}
