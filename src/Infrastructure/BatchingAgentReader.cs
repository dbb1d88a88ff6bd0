using System.Diagnostics;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using Npgsql;

namespace CalcomAccounts.Infrastructure;

/// <summary>
/// Lets lookups share round trips: only so many statements are in flight, and what arrives meanwhile goes with the next, in
/// the order of arrival. Nothing waits for a timer, and nothing is kept: each lookup is read after it has arrived. The lookups of
/// one request stay together.
/// </summary>
internal sealed class BatchingAgentReader(AgentReader reader, LookupLimits limits) : IAgentReader
{
    internal const int MaxBatch = 64;

    private static readonly ActivitySource s_source = new(InfrastructureServices.ActivitySourceName);

    private static readonly ExecutionContext s_noRequest = CaptureNoRequest();

    // Guards the queue, the counts, and what each request went with.
    private readonly Lock _lock = new();
    private readonly LinkedList<PendingRequest> _queue = [];
    private int _queuedLookups;
    private int _inFlight;

    /// <inheritdoc/>
    /// <exception cref="InvalidOperationException">Too many lookups are queued already.</exception>
    public async Task<IReadOnlyList<Agent?>> FindAsync(IReadOnlyList<Guid> agentIds, Caller caller, CancellationToken cancellationToken)
    {
        if (caller is { OrgId: null, Subject: null })
        {
            throw new ArgumentException("Reaches nothing.", nameof(caller));
        }

        // PostgreSQL's text can't hold a NUL, so no such subject is a member of anything.
        if (caller.Subject?.Contains('\0') is true)
        {
            return new Agent?[agentIds.Count];
        }

        var pending = new PendingRequest([.. agentIds.Select(agentId => new Lookup(agentId, caller))]);
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

    private void Enqueue(PendingRequest pending)
    {
        lock (_lock)
        {
            // Where nobody waits, a request for more than that is served all the same.
            if (_queuedLookups > 0 && _queuedLookups + pending.Lookups.Count > limits.MaxQueuedLookups)
            {
                throw new InvalidOperationException($"{_queuedLookups} lookups are queued already.");
            }

            _queue.AddLast(pending.Node);
            _queuedLookups += pending.Lookups.Count;
            if (_inFlight == limits.MaxStatementsInFlight)
            {
                return;
            }

            _inFlight++;
        }

        // It serves others' lookups too, so it carries no one request's trace on.
        ExecutionContext.Run(s_noRequest, static reader => _ = ((BatchingAgentReader)reader!).SendAsync(), this);
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
            var requests = new List<PendingRequest>(Math.Min(_queue.Count, MaxBatch));
            var lookups = 0;
            while (_queue.First is { } first && (lookups is 0 || lookups + first.Value.Lookups.Count <= MaxBatch))
            {
                Dequeue(first);
                requests.Add(first.Value);
                lookups += first.Value.Lookups.Count;
            }

            if (requests is [])
            {
                _inFlight--;
                return null;
            }

            return Batch.Of(requests);
        }
    }

    private void Dequeue(LinkedListNode<PendingRequest> node)
    {
        _queue.Remove(node);
        _queuedLookups -= node.Value.Lookups.Count;
    }

    private async Task AnswerAsync(Batch batch)
    {
        try
        {
            var agents = await ReadAsync(batch);
            var next = 0;
            foreach (var pending in batch.Requests)
            {
                pending.TrySetResult(new ArraySegment<Agent?>(agents, next, pending.Lookups.Count));
                next += pending.Lookups.Count;
            }
        }
        catch (Exception exception) when (batch.Requests.Count > 1 && exception is PostgresException { IsTransient: false } or not NpgsqlException)
        {
            // One of them may be to blame, for what it asks or for rows that can't be read, and no other may fail for it.
            foreach (var pending in batch.Requests)
            {
                if (TakeAlone(pending) is { } alone)
                {
                    await AnswerAsync(alone);
                }
            }
        }
        catch (Exception exception)
        {
            // Each throws its own: the stack trace of one that is thrown again and again grows with every request.
            foreach (var pending in batch.Requests)
            {
                pending.TrySetException(batch.Requests.Count is 1 ? exception : new NpgsqlException(exception.Message, exception));
            }
        }
    }

    private async Task<Agent?[]> ReadAsync(Batch batch)
    {
        // A span has one parent; the others' traces are linked to it.
        using var span = s_source.HasListeners()
            ? s_source.StartActivity(
                "calcom.accounts.lookup",
                ActivityKind.Internal,
                batch.Requests[0].Trace,
                links: batch.Requests.Skip(1).Select(pending => new ActivityLink(pending.Trace)))
            : null;
        return await reader.ReadAsync([.. batch.Requests.SelectMany(pending => pending.Lookups)], batch.Cancellation.Token);
    }

    private Batch? TakeAlone(PendingRequest pending)
    {
        lock (_lock)
        {
            return pending.Task.IsCompleted ? null : Batch.Of([pending]);
        }
    }

    /// <summary>Nobody waits for it any more. Where that is true of a whole batch, the server is told to end its statement.</summary>
    private void GiveUp(PendingRequest pending)
    {
        pending.TrySetCanceled();
        lock (_lock)
        {
            if (pending.Batch is not { } batch)
            {
                Dequeue(pending.Node);
            }
            else if (batch.Requests.TrueForAll(other => other.Task.IsCanceled))
            {
                // Npgsql blocks while it sends that, for seconds where the server is frozen.
                _ = batch.Cancellation.CancelAsync();
            }
        }
    }

    private static ExecutionContext CaptureNoRequest()
    {
        ExecutionContext? context = null;
        var thread = new Thread(() => context = ExecutionContext.Capture());
        thread.UnsafeStart();
        thread.Join();
        return context!;
    }

    // Its requests go on where the batch is answered, one after the other: to wake a thread for each would cost more than they do.
    private sealed class PendingRequest : TaskCompletionSource<IReadOnlyList<Agent?>>
    {
        public PendingRequest(IReadOnlyList<Lookup> lookups) => (Lookups, Node) = (lookups, new(this));

        public IReadOnlyList<Lookup> Lookups { get; }

        public LinkedListNode<PendingRequest> Node { get; }

        /// <summary>The request's own trace, where it has one.</summary>
        public ActivityContext Trace { get; } = Activity.Current?.Context ?? default;

        /// <summary>What it went with last; null while it is queued.</summary>
        public Batch? Batch { get; set; }
    }

    private sealed record Batch(List<PendingRequest> Requests, CancellationTokenSource Cancellation)
    {
        public static Batch Of(List<PendingRequest> requests)
        {
            var batch = new Batch(requests, new());
            requests.ForEach(pending => pending.Batch = batch);
            return batch;
        }
    }
}
