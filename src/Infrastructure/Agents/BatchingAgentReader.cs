using System.Diagnostics;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure.Database;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>
/// Request batching (the DataLoader pattern): only so many statements are in flight, and lookups that arrive meanwhile share the next, by
/// <see cref="LookupQueue"/>'s fair shares. Nothing waits for a timer, and nothing is kept: each lookup is read after it has arrived.
/// A statement that fails or holds others up is read again in parts, so that the lookup to blame fails alone; beside the others, suspects
/// have one statement in flight.
/// </summary>
internal sealed class BatchingAgentReader : IAgentReader
{
    internal const int MaxBatch = 64;

    // How long a shared statement may take while the database answers others: many times what one takes.
    internal static readonly TimeSpan SharedStatementTimeout = TimeSpan.FromMilliseconds(100);

    private static readonly TimeSpan s_grace = TimeSpan.FromMilliseconds(25);

    // Leaves time to connect.
    private static readonly TimeSpan s_probeTimeout = TimeSpan.FromMilliseconds(500);

    // Suspects that fail at once are asked no faster.
    private static readonly TimeSpan s_pauseAfterFailure = TimeSpan.FromMilliseconds(25);

    private static readonly ActivitySource s_source = new(InfrastructureServices.ActivitySourceName);

    private static readonly ExecutionContext s_noRequest = CaptureNoRequest();

    private readonly AgentReader _reader;
    private readonly LookupLimits _limits;

    // Guards all below, and what each request went with.
    private readonly Lock _lock = new();
    private readonly SuspectList _suspects = new(TimeProvider.System);
    private readonly LookupQueue _queue;
    private readonly Queue<List<PendingRequest>> _partsByCaller = [];
    private readonly Queue<List<PendingRequest>> _partsOfOneCaller = [];
    private int _sharedInFlight;
    private bool _isApartInFlight;

    // How long statements have taken lately, as a moving average.
    private TimeSpan _usual;

    // Whether the database answers at all: one question at a time, for whichever statements want to know.
    private Task<bool>? _answering;

    public BatchingAgentReader(AgentReader reader, LookupLimits limits) =>
        (_reader, _limits, _queue) = (reader, limits, new(limits.MaxQueuedLookups, limits.MaxConcurrentStatements, _suspects, TimeProvider.System));

    /// <inheritdoc/>
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

        var pending = new PendingRequest(agentIds, caller);
        IReadOnlyList<PendingRequest> displaced;
        lock (_lock)
        {
            displaced = _queue.Add(pending);
        }

        StartIdleSlots();
        foreach (var other in displaced)
        {
            other.TrySetException(new TooManyLookupsException(isOfCaller: true));
        }

        try
        {
            return await pending.Task.WaitAsync(cancellationToken);
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            Abandon(pending);
            throw;
        }
    }

    /// <inheritdoc/>
    public Task ProbeAsync(CancellationToken cancellationToken) =>
        _reader.ReadAsync([new(Guid.Empty, Caller.OfOrganization(Guid.Empty))], cancellationToken, AgentReader.ProbeSql);

    private void StartIdleSlots()
    {
        while (TryReserveSlot() is { } slot)
        {
            // It serves others' lookups too, so it carries no one request's trace on.
            ExecutionContext.Run(
                s_noRequest,
                static state =>
                {
                    var (reader, slot) = ((BatchingAgentReader, Slot))state!;
                    _ = reader.RunSlotAsync(slot);
                },
                (this, slot));
        }
    }

    private Slot? TryReserveSlot()
    {
        lock (_lock)
        {
            if (_sharedInFlight < _limits.MaxConcurrentStatements && (_queue.HasShared || _partsByCaller.Count > 0))
            {
                _sharedInFlight++;
                return Slot.Shared;
            }

            if (!_isApartInFlight && (_queue.HasApart || _partsOfOneCaller.Count > 0))
            {
                _isApartInFlight = true;
                return Slot.Apart;
            }

            return null;
        }
    }

    private async Task RunSlotAsync(Slot slot)
    {
        while (TakeNext(slot) is { } batch)
        {
            await AnswerAsync(batch);

            // Requests that have arrived meanwhile come first, and go along.
            await Task.Yield();
        }

        // What could not be taken here may wait for the other slot.
        StartIdleSlots();
    }

    private Batch? TakeNext(Slot slot)
    {
        lock (_lock)
        {
            var parts = slot is Slot.Shared ? _partsByCaller : _partsOfOneCaller;
            while (parts.TryDequeue(out var part))
            {
                if (part.Exists(request => !request.Task.IsCompleted))
                {
                    return Batch.Of(part, slot, isPart: true);
                }

                _queue.EndQuestioning(part[0].Caller);
            }

            var requests = slot is Slot.Shared ? _queue.TakeShared(MaxBatch) : _queue.TakeApart(MaxBatch);
            if (requests is not [])
            {
                return Batch.Of(requests, slot, isPart: false);
            }

            _sharedInFlight -= slot is Slot.Shared ? 1 : 0;
            _isApartInFlight &= slot is Slot.Shared;
            return null;
        }
    }

    private async Task AnswerAsync(Batch batch)
    {
        try
        {
            var agents = await ReadAsync(batch);
            Settle(batch, agents);
            batch.Requests.ForEach(request => request.SetAgents(agents));
        }
        catch (Exception exception) when (!batch.IsOverdue && exception is (NpgsqlException or DatabaseException { HasEndedSession: true }))
        {
            // A row may end its session, too; but where the database answers nothing else either, that says nothing of what was asked.
            if (batch.Connected.Task.IsCompleted && await IsAnsweringAsync())
            {
                Fail(Separate(batch), exception);
            }
            else
            {
                End(batch);
                Fail(batch.Requests, exception);
            }
        }
        catch (Exception exception)
        {
            var failed = Separate(batch);
            Fail(failed, exception);
            if (failed is not [] && batch.Slot is Slot.Apart)
            {
                await Task.Delay(s_pauseAfterFailure);
            }
        }
    }

    private async Task<IReadOnlyDictionary<Lookup, Agent?>> ReadAsync(Batch batch)
    {
        // A span has one parent; the others' traces are linked to it.
        using var span = s_source.HasListeners()
            ? s_source.StartActivity(
                "calcom.accounts.lookup",
                ActivityKind.Internal,
                batch.Requests[0].Trace,
                links: batch.Requests.Skip(1).Select(pending => new ActivityLink(pending.Trace)))
            : null;
        try
        {
            var agents = await WaitAsync(_reader.ReadAsync(batch.Lookups, batch.Cancellation.Token, whenConnected: () => batch.Connected.TrySetResult()), batch);
            return batch.Lookups.Zip(agents).ToDictionary(found => found.First, found => found.Second);
        }
        catch (Exception exception)
        {
            span?.SetStatus(ActivityStatusCode.Error);
            span?.SetTag("error.type", (exception as DatabaseException)?.SqlState ?? exception.GetType().FullName);
            span?.SetTag("db.response.status_code", (exception as DatabaseException)?.SqlState);
            throw;
        }
    }

    private async Task<Agent?[]> WaitAsync(Task<Agent?[]> reading, Batch batch)
    {
        // Until there is a session, it is not the statement that takes its time.
        await Task.WhenAny(reading, batch.Connected.Task);
        while (!(batch.IsAlone && batch.Slot is Slot.Apart))
        {
            // Where all statements are slow, none is for being so.
            var timeout = TimeSpan.FromTicks(Math.Max(SharedStatementTimeout.Ticks, _usual.Ticks * 4));
            await ((Task)reading).WaitAsync(timeout).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            var isOverdue = batch.IsPart || batch.Slot is Slot.Apart;
            if (!isOverdue && !reading.IsCompleted)
            {
                // Where the database answers another, it is the statement that is slow, unless both were held up until now.
                var answering = IsAnsweringAsync();
                await Task.WhenAny(reading, answering);
                isOverdue = answering.IsCompleted && await answering;
                await ((Task)reading).WaitAsync(s_grace).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }

            if (reading.IsCompleted)
            {
                break;
            }

            if (isOverdue)
            {
                batch.IsOverdue = true;
                Cancel(batch);

                // A server that is frozen does not end it: the slot goes on without.
                return await reading.WaitAsync(SharedStatementTimeout);
            }
        }

        return await reading;
    }

    private Task<bool> IsAnsweringAsync()
    {
        lock (_lock)
        {
            return _answering is { IsCompleted: false } ? _answering : _answering = Task.Run(async () =>
            {
                using var timeout = new CancellationTokenSource(s_probeTimeout);
                var probe = ProbeAsync(timeout.Token);
                await probe.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                return probe.IsCompletedSuccessfully;
            });
        }
    }

    private void Settle(Batch batch, IReadOnlyDictionary<Lookup, Agent?> agents)
    {
        lock (_lock)
        {
            _usual = (_usual * 0.9) + (Stopwatch.GetElapsedTime(batch.Sent) * 0.1);
            batch.Requests.ForEach(request => _suspects.Remove(request, agents));
        }

        End(batch);
    }

    private void End(Batch batch)
    {
        lock (_lock)
        {
            if (batch.IsPart)
            {
                _queue.EndQuestioning(batch.Requests[0].Caller);
            }
            else if (batch.Slot is Slot.Shared)
            {
                _queue.EndShared(batch.Requests);
            }
        }

        StartIdleSlots();
    }

    /// <summary>Has what a statement was to answer read again in parts, those of different callers first.</summary>
    /// <returns>The requests that are to blame, as they were read alone.</returns>
    private List<PendingRequest> Separate(Batch batch)
    {
        List<PendingRequest> failed = [];
        lock (_lock)
        {
            var waiting = batch.Requests.FindAll(request => !request.Task.IsCompleted);
            waiting.ForEach(request => request.Batch = null);
            if (batch.IsAlone && (waiting is not [] || batch.IsOverdue))
            {
                _suspects.Add(batch.Requests[0]);
                if (batch.IsOverdue)
                {
                    waiting.ForEach(_queue.Return);
                }
                else
                {
                    failed = waiting;
                }
            }
            else if (waiting.Select(request => new CallerKey(request.Caller)).Distinct().Count() > 1)
            {
                foreach (var part in waiting.GroupBy(request => new CallerKey(request.Caller)))
                {
                    AddPart(_partsByCaller, [.. part]);
                }
            }
            else
            {
                foreach (var half in waiting.Chunk(Math.Max(1, (waiting.Count + 1) / 2)))
                {
                    AddPart(_partsOfOneCaller, [.. half]);
                }
            }
        }

        End(batch);
        return failed;
    }

    private void AddPart(Queue<List<PendingRequest>> parts, List<PendingRequest> part)
    {
        _queue.BeginQuestioning(part[0].Caller);
        parts.Enqueue(part);
    }

    private static void Fail(List<PendingRequest> requests, Exception exception)
    {
        foreach (var request in requests)
        {
            // Each throws its own: the stack trace of one that is thrown again and again grows with every request.
            request.TrySetException(exception switch
            {
                DatabaseException failure => failure.Copy(),
                NpgsqlException => new NpgsqlException(exception.Message, exception.InnerException),
                _ => exception,
            });
        }
    }

    /// <summary>Nobody waits for it any more. Where that is true of a whole batch, the server is told to end its statement.</summary>
    private void Abandon(PendingRequest pending)
    {
        pending.TrySetCanceled();
        lock (_lock)
        {
            if (pending.Node.List is not null)
            {
                _queue.Remove(pending);
            }
            else if (pending.Batch is { } batch && batch.Requests.TrueForAll(other => other.Task.IsCanceled))
            {
                Cancel(batch);
            }
        }
    }

    // Npgsql blocks while it sends that, for seconds where the server is frozen.
    private static void Cancel(Batch batch) => _ = batch.Cancellation.CancelAsync();

    private static ExecutionContext CaptureNoRequest()
    {
        ExecutionContext? context = null;
        var thread = new Thread(() => context = ExecutionContext.Capture());
        thread.UnsafeStart();
        thread.Join();
        return context!;
    }
}

/// <summary>Where a statement runs.</summary>
internal enum Slot
{
    /// <summary>One of those that lookups of all callers share.</summary>
    Shared,

    /// <summary>The one of suspects, which has a session of its own.</summary>
    Apart,
}

/// <summary>The requests of one statement.</summary>
/// <param name="Requests">At least one.</param>
/// <param name="Slot">Where it runs.</param>
/// <param name="IsPart">Whether it reads again, for one caller, a part of what has failed.</param>
internal sealed record Batch(List<PendingRequest> Requests, Slot Slot, bool IsPart)
{
    /// <summary>What is read: equal lookups once.</summary>
    public IReadOnlyList<Lookup> Lookups { get; } = Requests is [var one] ? one.Lookups : [.. Requests.SelectMany(request => request.Lookups).Distinct()];

    /// <summary>Whether all of it asks the same, so that a failure is of nothing else.</summary>
    public bool IsAlone => Requests.TrueForAll(request => request.IsEqualTo(Requests[0]));

    public static Batch Of(List<PendingRequest> requests, Slot slot, bool isPart)
    {
        var batch = new Batch(requests, slot, isPart);
        requests.ForEach(request => request.Batch = batch);
        return batch;
    }

    public CancellationTokenSource Cancellation { get; } = new();

    public long Sent { get; } = Stopwatch.GetTimestamp();

    /// <summary>Completed when there is a session to send it on.</summary>
    public TaskCompletionSource Connected { get; } = new();

    /// <summary>Whether it was cancelled for taking too long.</summary>
    public bool IsOverdue { get; set; }
}
