using System.Diagnostics;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure.Database;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>
/// Batches lookups (the DataLoader pattern, <c>docs/adr/0003-request-batching.md</c>): a limited number of statements, one in each
/// <b>shared slot</b>, is in flight, and the lookups that arrive meanwhile share the next one. There is neither a timer nor a cache.
/// <para>
/// Failures are isolated (<c>docs/adr/0004-failure-isolation.md</c>). A batch that fails or times out is <b>retried</b> in smaller
/// batches, first one for each caller, then halves, until the lookups that fail are on their own. These are then <b>quarantined</b> for 10
/// seconds: they share no statement with other lookups, and run in the <b>isolated slot</b>, one for all, so that they hold nobody else up.
/// A caller with too many of them is quarantined as a whole. While a retry of a caller goes on, its other requests use the isolated slot
/// too.
/// </para>
/// <para>
/// Pages of an organization's agents have a queue and a slot of their own, and a caller's pages are quarantined apart from its lookups.
/// </para>
/// <para>
/// On a distributed database a batch reads one organization, so that it depends on one server alone. A batch that takes longer than usual
/// leaves its slot to the next one, because a server that hangs would otherwise hold up the organizations of all others
/// (<c>docs/adr/0018-distributed-lookups.md</c>).
/// </para>
/// </summary>
internal sealed class BatchingAgentReader : IAgentReader
{
    internal const int MaxBatch = 64;

    // Many times what a statement usually takes.
    internal static readonly TimeSpan SharedStatementTimeout = TimeSpan.FromMilliseconds(100);

    // How many times the average a batch may take.
    private const int MaxTimesAverage = 4;

    private static readonly TimeSpan s_minOverdueTime = TimeSpan.FromMilliseconds(20);

    // A page reads many times as many rows as a lookup.
    private static readonly TimeSpan s_pageTimeout = TimeSpan.FromMilliseconds(200);

    // Includes the time to connect.
    private static readonly TimeSpan s_probeTimeout = TimeSpan.FromMilliseconds(500);

    // How long a statement may go on after a probe has succeeded: both may have been held up by the same cause.
    private static readonly TimeSpan s_gracePeriod = TimeSpan.FromMilliseconds(25);

    // Limits the rate of quarantined lookups that fail at once.
    private static readonly TimeSpan s_delayAfterFailure = TimeSpan.FromMilliseconds(25);

    private static readonly ActivitySource s_activitySource = new(InfrastructureServices.ActivitySourceName);

    private static readonly ExecutionContext s_emptyContext = CaptureEmptyContext();

    private readonly AgentReader _reader;
    private readonly LookupOptions _options;

    // Guards all fields below, and PendingRequest.Batch.
    private readonly Lock _lock = new();
    private readonly LookupQuarantine _quarantine = new(TimeProvider.System);
    private readonly LookupQueue _queue;
    private readonly LookupQueue _pages;

    // Each retry has requests of one caller only.
    private readonly Queue<List<PendingRequest>> _sharedRetries = [];
    private readonly Queue<List<PendingRequest>> _isolatedRetries = [];
    private int _sharedInFlight;
    private int _isolatedInFlight;
    private bool _isPageInFlight;
    private bool _isPagesTurn;

    // Those that have left their slots, the longest first.
    private readonly List<Batch> _overdue = [];

    // An exponential moving average.
    private TimeSpan _averageDuration;

    // All statements that need to know whether the database responds share one probe.
    private Task<bool>? _probe;

    public BatchingAgentReader(AgentReader reader, LookupOptions options)
    {
        (_reader, _options) = (reader, options);
        _queue = new(options.MaxQueuedLookups, options.MaxConcurrentStatements, _quarantine, TimeProvider.System);
        _pages = new(options.MaxQueuedLookups, maxStatements: 1, _quarantine, TimeProvider.System, isOfPages: true);
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<Agent?>> FindAsync(IReadOnlyList<Guid> agentIds, Caller caller, CancellationToken cancellationToken)
    {
        if (caller is { OrgId: null, Subject: null })
        {
            throw new ArgumentException("The caller has neither an organization nor a subject.", nameof(caller));
        }

        if (IsMemberOfNothing(caller))
        {
            return new Agent?[agentIds.Count];
        }

        if (_options.IsDistributed && caller.OrgId is null)
        {
            return await FindOfMemberAsync(agentIds, caller, cancellationToken);
        }

        var key = new StatementKey(StatementKind.Agents, _options.IsDistributed ? caller.OrgId : null);
        return [.. (await LookUpAsync(agentIds, caller, key, cancellationToken)).Select(result => result.Agent)];
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<ListedAgent>> ListAsync(Caller caller, Guid? after, int count, CancellationToken cancellationToken)
    {
        if (IsMemberOfNothing(caller))
        {
            return [];
        }

        var pending = new PendingRequest(new Page(after, count), caller);
        await WaitInQueueAsync(pending, cancellationToken);
        return pending.Listed;
    }

    /// <inheritdoc/>
    public Task ProbeAsync(CancellationToken cancellationToken) => _reader.ProbeAsync(cancellationToken);

    /// <summary>Finds the agents of a caller without an organization on a distributed database, where a statement reads one organization.</summary>
    private async Task<IReadOnlyList<Agent?>> FindOfMemberAsync(IReadOnlyList<Guid> agentIds, Caller caller, CancellationToken cancellationToken)
    {
        Guid[] distinct = [.. agentIds.Distinct()];
        var memberships = await LookUpAsync([Guid.Empty], caller, new(StatementKind.Memberships, OrgId: null), cancellationToken);
        var parts = memberships[0].OrgIds!.Select(orgId => (OrgId: orgId, AgentIds: distinct)).ToList();
        if (parts.Count > AgentReader.MaxOrganizations)
        {
            var orgIds = await LookUpAsync(distinct, caller, new(StatementKind.AgentOrganization, OrgId: null), cancellationToken);
            parts = [.. distinct.Zip(orgIds, (agentId, found) => (AgentId: agentId, OrgIds: found.OrgIds!))
                .Where(found => found.OrgIds is not [])
                .GroupBy(found => found.OrgIds[0], found => found.AgentId)
                .Select(found => (found.Key, found.ToArray()))];
        }

        var reads = parts.ConvertAll(part => LookUpAsync(part.AgentIds, caller.NarrowedTo(part.OrgId), new(StatementKind.Agents, part.OrgId), cancellationToken));
        var all = Task.WhenAll(reads);
        await ((Task)all).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        var agents = new Dictionary<Guid, Agent>();
        foreach (var (part, read) in parts.Zip(reads).Where(pair => pair.Second.IsCompletedSuccessfully))
        {
            foreach (var (agentId, result) in part.AgentIds.Zip(await read))
            {
                if (result.Agent is { } agent)
                {
                    agents.TryAdd(agentId, agent);
                }
            }
        }

        // An organization whose server is lost costs only the agents that were found in no other.
        if (agents.Count < distinct.Length)
        {
            await all;
        }

        return [.. agentIds.Select(agents.GetValueOrDefault)];
    }

    // PostgreSQL can't store a NUL character.
    private static bool IsMemberOfNothing(Caller caller) => caller.Subject?.Contains('\0') is true;

    private LookupQueue QueueOf(PendingRequest request) => request.Page is null ? _queue : _pages;

    private Task<IReadOnlyList<LookupResult>> LookUpAsync(
        IReadOnlyList<Guid> agentIds, Caller caller, StatementKey key, CancellationToken cancellationToken) =>
        WaitInQueueAsync(new(agentIds, caller, key), cancellationToken);

    private async Task<IReadOnlyList<LookupResult>> WaitInQueueAsync(PendingRequest pending, CancellationToken cancellationToken)
    {
        IReadOnlyList<PendingRequest> evicted;
        lock (_lock)
        {
            evicted = QueueOf(pending).Add(pending);
        }

        StartIdleSlots();
        foreach (var other in evicted)
        {
            other.TrySetException(new TooManyLookupsException(isCallerLimit: true));
        }

        try
        {
            return await pending.Task.WaitAsync(cancellationToken);
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            CancelRequest(pending);
            throw;
        }
    }

    private void StartIdleSlots()
    {
        while (TryReserveSlot() is { } slot)
        {
            // A slot serves many requests, so it must not inherit the trace of the one that starts it.
            ExecutionContext.Run(
                s_emptyContext,
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
            if (_sharedInFlight < _options.MaxConcurrentStatements && (_queue.HasShared || _sharedRetries.Count > 0))
            {
                _sharedInFlight++;
                return Slot.Shared;
            }

            if (_isolatedInFlight < _options.MaxIsolatedStatements && (_queue.HasIsolated || _pages.HasIsolated || _isolatedRetries.Count > 0))
            {
                _isolatedInFlight++;
                return Slot.Isolated;
            }

            if (!_isPageInFlight && _pages.HasShared)
            {
                _isPageInFlight = true;
                return Slot.Pages;
            }

            return null;
        }
    }

    private async Task RunSlotAsync(Slot slot)
    {
        while (TakeBatch(slot) is { } batch)
        {
            await RunBatchAsync(batch);

            if (batch.HasLeftSlot)
            {
                lock (_lock)
                {
                    _overdue.Remove(batch);
                }

                return;
            }

            if (batch.Requests.Count > 1)
            {
                // Lets requests that have arrived meanwhile queue up, so that they join the next batch.
                await Task.Yield();
            }
        }

        // Requests that this slot could not take may have moved to the other kind of slot.
        StartIdleSlots();
    }

    /// <returns>Null, after releasing the slot, when there is nothing to run in it.</returns>
    private Batch? TakeBatch(Slot slot)
    {
        lock (_lock)
        {
            if (slot is Slot.Pages)
            {
                var pages = _pages.TakeShared(MaxBatch);
                _isPageInFlight = pages is not [];
                return _isPageInFlight ? new(pages, slot, isRetry: false) : null;
            }

            var retries = slot is Slot.Shared ? _sharedRetries : _isolatedRetries;
            while (retries.TryDequeue(out var retry))
            {
                if (retry.Exists(request => !request.Task.IsCompleted))
                {
                    return new(retry, slot, isRetry: true);
                }

                _queue.EndRetry(retry[0].CallerKey);
            }

            var requests = slot is Slot.Shared ? _queue.TakeShared(MaxBatch) : TakeIsolated();
            if (requests is not [])
            {
                return new(requests, slot, isRetry: false);
            }

            _sharedInFlight -= slot is Slot.Shared ? 1 : 0;
            _isolatedInFlight -= slot is Slot.Isolated ? 1 : 0;
            return null;
        }
    }

    // Lookups and pages in turn.
    private List<PendingRequest> TakeIsolated()
    {
        _isPagesTurn = !_isPagesTurn;
        var requests = (_isPagesTurn ? _pages : _queue).TakeIsolated(MaxBatch);
        return requests is not [] ? requests : (_isPagesTurn ? _queue : _pages).TakeIsolated(MaxBatch);
    }

    private async Task RunBatchAsync(Batch batch)
    {
        try
        {
            var results = await ReadAsync(batch);
            RecordSuccess(batch, results);
            batch.Requests.ForEach(request => request.TrySetResults(results));
        }
        catch (Exception exception) when (!batch.HasTimedOut && exception is (NpgsqlException or DatabaseException { HasEndedSession: true }))
        {
            // A row may make its session end, too. But when the database does not respond at all, no lookup is the cause.
            if (batch.Connected.Task.IsCompleted && await IsDatabaseRespondingAsync())
            {
                Fail(Isolate(batch), exception);
            }
            else
            {
                End(batch);
                Fail(batch.Requests, exception);
            }
        }
        catch (Exception exception)
        {
            var failed = Isolate(batch);
            Fail(failed, exception);
            if (failed is not [] && batch.Slot is Slot.Isolated)
            {
                await Task.Delay(s_delayAfterFailure);
            }
        }
    }

    private async Task<IReadOnlyDictionary<Lookup, LookupResult>> ReadAsync(Batch batch)
    {
        // A span has one parent only, so the other requests' traces are links.
        using var span = s_activitySource.HasListeners()
            ? s_activitySource.StartActivity(
                "calcom.accounts.lookup",
                ActivityKind.Internal,
                batch.Requests[0].Trace,
                links: batch.Requests.Skip(1).Select(pending => new ActivityLink(pending.Trace)))
            : null;
        try
        {
            void OnConnected() => batch.Connected.TrySetResult();
            if (batch.Requests is [{ Page: { } page } request])
            {
                request.Listed = await WaitAsync(_reader.ReadPageAsync(page, request.Caller, batch.Cancellation.Token, OnConnected), batch);
                return new Dictionary<Lookup, LookupResult>();
            }

            var results = await WaitAsync(_reader.ReadAsync(batch.Lookups, batch.Statement, batch.Cancellation.Token, OnConnected), batch);
            return batch.Lookups.Zip(results).ToDictionary(found => found.First, found => found.Second);
        }
        catch (Exception exception)
        {
            span?.SetStatus(ActivityStatusCode.Error);
            span?.SetTag("error.type", (exception as DatabaseException)?.SqlState ?? exception.GetType().FullName);
            span?.SetTag("db.response.status_code", (exception as DatabaseException)?.SqlState);
            throw;
        }
    }

    /// <summary>Waits for a statement, and cancels it when it takes too long while other lookups could go on.</summary>
    private async Task<T> WaitAsync<T>(Task<T> reading, Batch batch)
    {
        if (_options.IsDistributed && batch.Slot is Slot.Shared)
        {
            return await WaitOverdueAsync(reading, batch);
        }

        // The time to connect says nothing of the statement.
        await Task.WhenAny(reading, batch.Connected.Task);

        // A batch that is isolated already, and can't be split, has until the server's statement_timeout.
        while (!(batch.IsIndivisible && batch.Slot is Slot.Isolated))
        {
            // The average adapts the timeout to a database that is slow as a whole.
            var timeout = batch.Slot is Slot.Pages
                ? s_pageTimeout
                : TimeSpan.FromTicks(Math.Max(SharedStatementTimeout.Ticks, _averageDuration.Ticks * MaxTimesAverage));
            await ((Task)reading).WaitAsync(timeout).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            var hasTimedOut = batch.IsRetry || batch.Slot is Slot.Isolated;
            if (!hasTimedOut && !reading.IsCompleted)
            {
                // Only when a probe succeeds meanwhile is the statement itself slow, rather than the database.
                var probe = IsDatabaseRespondingAsync();
                await Task.WhenAny(reading, probe);
                hasTimedOut = probe.IsCompleted && await probe;
                await ((Task)reading).WaitAsync(s_gracePeriod).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }

            if (reading.IsCompleted)
            {
                break;
            }

            if (hasTimedOut)
            {
                return await CancelAsync(reading, batch);
            }
        }

        return await reading;
    }

    /// <summary>
    /// Waits for a statement on a distributed database. When it takes long, its slot goes to the next batch, and it has until the server's
    /// statement_timeout, unless another batch needs its place among those that have left their slots.
    /// </summary>
    private async Task<T> WaitOverdueAsync<T>(Task<T> reading, Batch batch)
    {
        while (true)
        {
            var usual = TimeSpan.FromTicks(Math.Max(s_minOverdueTime.Ticks, _averageDuration.Ticks * MaxTimesAverage));
            await ((Task)reading).WaitAsync(usual).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (reading.IsCompleted)
            {
                return await reading;
            }

            if (TryLeaveSlot(batch))
            {
                return await Task.WhenAny(reading, batch.Displaced.Task) == reading ? await reading : await CancelAsync(reading, batch);
            }

            // Otherwise it is the database that is slow, rather than the others that have left their slots.
            if (await IsDatabaseRespondingAsync())
            {
                DisplaceOldest();
            }
        }
    }

    private static Task<T> CancelAsync<T>(Task<T> reading, Batch batch)
    {
        batch.HasTimedOut = true;
        CancelStatement(batch);

        // A frozen server does not react to the cancellation; the slot must not wait for it.
        return reading.WaitAsync(SharedStatementTimeout);
    }

    private bool TryLeaveSlot(Batch batch)
    {
        lock (_lock)
        {
            if (_overdue.Count >= _options.MaxOverdueBatches)
            {
                return false;
            }

            _overdue.Add(batch);
            _sharedInFlight--;
            batch.HasLeftSlot = true;
        }

        StartIdleSlots();
        return true;
    }

    private void DisplaceOldest()
    {
        lock (_lock)
        {
            // One that still connects gives up by itself, and the time says nothing of its lookups.
            if (_overdue.Find(batch => batch.Connected.Task.IsCompleted && Stopwatch.GetElapsedTime(batch.Started) >= SharedStatementTimeout) is { } oldest)
            {
                _overdue.Remove(oldest);
                oldest.Displaced.TrySetResult();
            }
        }
    }

    private Task<bool> IsDatabaseRespondingAsync()
    {
        lock (_lock)
        {
            return _probe is { IsCompleted: false } ? _probe : _probe = Task.Run(async () =>
            {
                using var timeout = new CancellationTokenSource(s_probeTimeout);
                var probe = ProbeAsync(timeout.Token);
                await probe.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                return probe.IsCompletedSuccessfully;
            });
        }
    }

    private void RecordSuccess(Batch batch, IReadOnlyDictionary<Lookup, LookupResult> results)
    {
        lock (_lock)
        {
            if (!batch.HasLeftSlot && batch.Statement.Kind is not StatementKind.Page)
            {
                _averageDuration = (_averageDuration * 0.9) + (Stopwatch.GetElapsedTime(batch.Started) * 0.1);
            }

            if (batch.Statement.Kind is StatementKind.Page && Stopwatch.GetElapsedTime(batch.Started) >= s_pageTimeout)
            {
                _quarantine.Add(batch.Requests[0]);
            }

            batch.Requests.ForEach(request => _quarantine.Release(request, results));
        }

        End(batch);
    }

    /// <summary>Lets the queue know that the batch's statement has ended.</summary>
    private void End(Batch batch)
    {
        lock (_lock)
        {
            if (batch.IsRetry)
            {
                _queue.EndRetry(batch.Requests[0].CallerKey);
            }
            else if (batch.Slot is Slot.Shared)
            {
                _queue.EndShared(batch.Requests);
            }
            else if (batch.Slot is Slot.Pages)
            {
                _pages.EndShared(batch.Requests);
            }
            else
            {
                QueueOf(batch.Requests[0]).EndIsolated(batch.Requests[0].CallerKey);
            }
        }

        StartIdleSlots();
    }

    /// <summary>Retries a batch in smaller ones, or quarantines its lookups where it can't be split.</summary>
    /// <returns>The requests to fail: those that failed on their own.</returns>
    private List<PendingRequest> Isolate(Batch batch)
    {
        List<PendingRequest> failed = [];
        lock (_lock)
        {
            var waiting = batch.Requests.FindAll(request => !request.Task.IsCompleted);
            waiting.ForEach(request => request.Batch = null);
            var callers = waiting.GroupBy(request => request.CallerKey).ToList();
            if (batch.IsIndivisible && (waiting is not [] || batch.HasTimedOut))
            {
                _quarantine.Add(batch.Requests[0]);
                if (batch.HasTimedOut)
                {
                    // They run again in the isolated slot, where they may take longer.
                    waiting.ForEach(request => QueueOf(request).Requeue(request));
                }
                else
                {
                    failed = waiting;
                }
            }
            else if (callers.Count > 1)
            {
                // One that has left its slot waits for a server that hangs, as all of its requests would.
                callers.ForEach(requests => AddRetry(batch.HasLeftSlot ? _isolatedRetries : _sharedRetries, [.. requests]));
            }
            else
            {
                foreach (var half in waiting.Chunk(Math.Max(1, (waiting.Count + 1) / 2)))
                {
                    AddRetry(_isolatedRetries, [.. half]);
                }
            }
        }

        End(batch);
        return failed;
    }

    private void AddRetry(Queue<List<PendingRequest>> retries, List<PendingRequest> requests)
    {
        _queue.BeginRetry(requests[0].CallerKey);
        retries.Enqueue(requests);
    }

    private static void Fail(List<PendingRequest> requests, Exception exception)
    {
        foreach (var request in requests)
        {
            // Each request gets a copy, because an exception's stack trace grows each time that it is thrown.
            request.TrySetException(exception switch
            {
                DatabaseException failure => failure.Copy(),
                NpgsqlException => new NpgsqlException(exception.Message, exception.InnerException),
                _ => exception,
            });
        }
    }

    /// <summary>Removes a request from the queue, or cancels its statement when each of the batch's requests is cancelled.</summary>
    private void CancelRequest(PendingRequest pending)
    {
        pending.TrySetCanceled();
        lock (_lock)
        {
            if (pending.QueueNode.List is not null)
            {
                QueueOf(pending).Remove(pending);
            }
            else if (pending.Batch is { } batch && batch.Requests.TrueForAll(other => other.Task.IsCanceled))
            {
                CancelStatement(batch);
            }
        }
    }

    // Not awaited: Npgsql blocks while it sends the cancellation, for seconds when the server is frozen.
    private static void CancelStatement(Batch batch) => _ = batch.Cancellation.CancelAsync();

    private static ExecutionContext CaptureEmptyContext()
    {
        ExecutionContext? context = null;
        var thread = new Thread(() => context = ExecutionContext.Capture());
        thread.UnsafeStart();
        thread.Join();
        return context!;
    }
}
