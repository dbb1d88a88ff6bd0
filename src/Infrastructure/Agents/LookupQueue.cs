using CalcomAccounts.Application;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>
/// The bounded queue of lookups, served by deficit round robin over callers: each caller gets the same number of lookups a turn, however
/// many requests or connections it has. While other callers are active, a caller with many lookups in flight is skipped. Requests for the
/// isolated slot (see <see cref="BatchingAgentReader"/>) wait in a list of their own. A batch has one statement key: that of the caller whose
/// turn it is. Pages of an organization's agents wait in a queue of their own. The reasons are in <c>docs/adr/0003-request-batching.md</c>. Not thread-safe.
/// </summary>
internal sealed class LookupQueue(int maxLookups, int maxStatements, LookupQuarantine quarantine, TimeProvider clock, bool isOfPages = false)
{
    // How many lookups a caller gets a turn; a batch has room for the turns of several callers.
    private const int Quantum = 16;

    // Half of a full statement.
    private const int MaxInFlightPerStatement = 32;

    // How many callers whose next request has another statement key are passed over to fill a batch.
    private const int MaxPassedCallers = 64;

    // How long after it was last served a caller counts as active.
    private static readonly TimeSpan s_activeWindow = TimeSpan.FromSeconds(1);

    private readonly Dictionary<CallerKey, WaitingCaller> _callers = [];
    private readonly LinkedList<WaitingCaller> _shared = [];
    private readonly LinkedList<WaitingCaller> _isolated = [];
    private int _count;

    // The two callers that were served last, so that one of them always differs from a given caller.
    private (CallerKey Key, long Time) _lastServed;
    private (CallerKey Key, long Time) _lastServedBefore;

    /// <summary>Whether a request may go to a shared slot now.</summary>
    public bool HasShared => _shared.Any(caller => !IsAtInFlightLimit(caller));

    /// <summary>Whether a request may go to the isolated slot now.</summary>
    public bool HasIsolated => _isolated.Any(caller => !caller.IsIsolatedInFlight);

    private int MaxLookupsPerCaller => Math.Max(1, maxLookups / 4);

    /// <summary>Queues a request. A caller that has nothing queued may queue a request of any length.</summary>
    /// <returns>The requests that were evicted to make room; the caller of this method has to fail them.</returns>
    /// <exception cref="TooManyLookupsException">
    /// The caller's share is used up, or the queue is full and no other caller has more queued than this one would have.
    /// </exception>
    public IReadOnlyList<PendingRequest> Add(PendingRequest request)
    {
        var caller = GetOrAddCaller(request.CallerKey);
        if (caller.Count > 0 && caller.Count + request.Count > MaxLookupsPerCaller)
        {
            throw new TooManyLookupsException(isCallerLimit: true);
        }

        List<PendingRequest> evicted = [];
        while (_count > 0 && _count + request.Count > maxLookups)
        {
            var heaviest = _callers.Values.MaxBy(other => other.Count)!;
            if (heaviest == caller || heaviest.Count <= caller.Count + (isOfPages ? request.Count : 1))
            {
                if (evicted is not [])
                {
                    break;
                }

                RemoveIfIdle(caller);
                throw new TooManyLookupsException(isCallerLimit: caller.Count > 0);
            }

            evicted.Add((heaviest.Isolated.Last ?? heaviest.Shared.Last)!.Value);
            Unlink(heaviest, evicted[^1]);
            RemoveIfIdle(heaviest);
        }

        Append(caller, request);
        return evicted;
    }

    /// <summary>Queues a request again that was taken before; no limit applies.</summary>
    public void Requeue(PendingRequest request) => Append(GetOrAddCaller(request.CallerKey), request);

    /// <summary>Removes a queued request that was cancelled.</summary>
    public void Remove(PendingRequest request)
    {
        var caller = GetOrAddCaller(request.CallerKey);
        Unlink(caller, request);
        RemoveIfIdle(caller);
    }

    /// <summary>Takes the requests of the next batch for a shared slot; empty when there are none.</summary>
    /// <param name="maxBatch">How many different lookups a batch may have. A request with more gets a batch of its own.</param>
    public List<PendingRequest> TakeShared(int maxBatch)
    {
        var passed = new List<WaitingCaller>();
        var batch = FillShared(maxBatch, passed);
        for (var i = passed.Count - 1; i >= 0; i--)
        {
            _shared.AddFirst(passed[i].SharedNode);
        }

        batch.ForEach(request => GetOrAddCaller(request.CallerKey).InFlight += request.Count);
        return batch;
    }

    /// <summary>Has to be called when the statement of <see cref="TakeShared"/> has ended.</summary>
    public void EndShared(List<PendingRequest> batch)
    {
        foreach (var request in batch)
        {
            var caller = GetOrAddCaller(request.CallerKey);
            caller.InFlight -= request.Count;
            RemoveIfIdle(caller);
        }
    }

    /// <summary>
    /// Takes the requests of the next batch for the isolated slot, all of one caller: a quarantined request and those with the same
    /// lookups, or requests that are not quarantined themselves. Empty when there are none.
    /// </summary>
    public List<PendingRequest> TakeIsolated(int maxBatch)
    {
        var batch = new List<PendingRequest>();
        if (_isolated.FirstOrDefault(waiting => !waiting.IsIsolatedInFlight) is not { } caller)
        {
            return batch;
        }

        var lookups = 0;
        for (var node = caller.Isolated.First; node is not null; node = node.Next)
        {
            var request = node.Value;
            var isQuarantined = quarantine.Contains(request);
            if (batch is []
                || (request.CanShareStatementWith(batch[0])
                    && (isQuarantined ? request.HasSameLookups(batch[0]) : !quarantine.Contains(batch[0]) && lookups + request.Count <= maxBatch)))
            {
                batch.Add(request);
                lookups += isQuarantined ? 0 : request.Count;
            }
        }

        caller.IsIsolatedInFlight = true;
        batch.ForEach(request => Unlink(caller, request));
        if (caller.IsolatedNode.List is not null)
        {
            _isolated.Remove(caller.IsolatedNode);
            _isolated.AddLast(caller.IsolatedNode);
        }

        RemoveIfIdle(caller);
        return batch;
    }

    /// <summary>Has to be called when the statement of <see cref="TakeIsolated"/> has ended.</summary>
    public void EndIsolated(CallerKey key)
    {
        var caller = GetOrAddCaller(key);
        caller.IsIsolatedInFlight = false;
        RemoveIfIdle(caller);
    }

    /// <summary>From now on, until all its retries have ended, the caller's requests go to the isolated slot.</summary>
    public void BeginRetry(CallerKey key) => GetOrAddCaller(key).Retries++;

    public void EndRetry(CallerKey key)
    {
        var caller = GetOrAddCaller(key);
        caller.Retries--;
        if (!IsIsolated(caller))
        {
            foreach (var request in caller.Isolated.Where(request => !quarantine.Contains(request)).ToList())
            {
                Reassign(caller, request);
            }
        }

        RemoveIfIdle(caller);
    }

    /// <param name="maxBatch">As in <see cref="TakeShared"/>.</param>
    /// <param name="passed">To it are added the callers that were taken off the list, because their next request has another key.</param>
    private List<PendingRequest> FillShared(int maxBatch, List<WaitingCaller> passed)
    {
        var batch = new List<PendingRequest>();
        var lookups = new HashSet<Lookup>();
        var skipped = 0;
        while (lookups.Count < maxBatch && skipped < _shared.Count && passed.Count < MaxPassedCallers)
        {
            var caller = _shared.First!.Value;
            if (batch is not [] && !caller.Shared.First!.Value.CanShareStatementWith(batch[0]))
            {
                _shared.RemoveFirst();
                passed.Add(caller);
                continue;
            }

            if (IsIsolated(caller))
            {
                foreach (var request in caller.Shared.ToList())
                {
                    Reassign(caller, request);
                }

                continue;
            }

            if (IsAtInFlightLimit(caller))
            {
                skipped++;
                EndTurn(caller);
                continue;
            }

            skipped = 0;
            var sizeBefore = batch.Count;
            caller.Deficit += Quantum;
            while (caller.Shared.First?.Value is { } request)
            {
                if (quarantine.Contains(request))
                {
                    Reassign(caller, request);
                    continue;
                }

                if (batch is not [] && !request.CanShareStatementWith(batch[0]))
                {
                    // It has had a part in a statement, which costs more than the lookups in it.
                    caller.Deficit = 0;
                    break;
                }

                if (request.Count > caller.Deficit)
                {
                    break;
                }

                if (batch.Count > 0 && lookups.Count + request.Lookups.Count(lookup => !lookups.Contains(lookup)) > maxBatch)
                {
                    // The request goes with the next batch. A turn in which its caller got nothing is not counted.
                    caller.Deficit -= sizeBefore == batch.Count ? Quantum : 0;
                    return batch;
                }

                caller.Deficit -= request.Count;
                _lastServedBefore = _lastServed.Key == caller.Key ? _lastServedBefore : _lastServed;
                _lastServed = (caller.Key, clock.GetTimestamp());
                Unlink(caller, request);
                batch.Add(request);
                lookups.UnionWith(request.Lookups);
            }

            EndTurn(caller);
        }

        return batch;
    }

    // Without a limit a caller could fill every slot with long statements, and others would wait for them.
    private bool IsAtInFlightLimit(WaitingCaller caller) =>
        caller.InFlight >= MaxInFlightPerStatement * Math.Max(1, maxStatements / 2)
        && (_shared.Count > 1 || clock.GetElapsedTime((_lastServed.Key == caller.Key ? _lastServedBefore : _lastServed).Time) < s_activeWindow);

    private bool IsIsolated(WaitingCaller caller) => caller.Retries > 0 || (!isOfPages && quarantine.ContainsCaller(caller.Key));

    private void Append(WaitingCaller caller, PendingRequest request)
    {
        var isIsolated = IsIsolated(caller) || quarantine.Contains(request);
        (isIsolated ? caller.Isolated : caller.Shared).AddLast(request.QueueNode);
        caller.Count += request.Count;
        _count += request.Count;
        if (isIsolated && caller.IsolatedNode.List is null)
        {
            _isolated.AddLast(caller.IsolatedNode);
        }
        else if (!isIsolated && caller.SharedNode.List is null)
        {
            _shared.AddLast(caller.SharedNode);
        }
    }

    private void Unlink(WaitingCaller caller, PendingRequest request)
    {
        request.QueueNode.List!.Remove(request.QueueNode);
        caller.Count -= request.Count;
        _count -= request.Count;
        if (caller.Isolated.Count is 0 && caller.IsolatedNode.List is not null)
        {
            _isolated.Remove(caller.IsolatedNode);
        }

        if (caller.Shared.Count is 0 && caller.SharedNode.List is not null)
        {
            _shared.Remove(caller.SharedNode);
            caller.Deficit = 0;
        }
    }

    /// <summary>Moves a request to the list, shared or isolated, where it belongs by now.</summary>
    private void Reassign(WaitingCaller caller, PendingRequest request)
    {
        Unlink(caller, request);
        Append(caller, request);
    }

    private void EndTurn(WaitingCaller caller)
    {
        if (caller.SharedNode.List is not null)
        {
            _shared.Remove(caller.SharedNode);
            _shared.AddLast(caller.SharedNode);
        }

        RemoveIfIdle(caller);
    }

    private WaitingCaller GetOrAddCaller(CallerKey key)
    {
        if (!_callers.TryGetValue(key, out var caller))
        {
            _callers.Add(key, caller = new(key));
        }

        return caller;
    }

    private void RemoveIfIdle(WaitingCaller caller)
    {
        if (caller is { Count: 0, Retries: 0, InFlight: 0, IsIsolatedInFlight: false })
        {
            _callers.Remove(caller.Key);
        }
    }

    private sealed class WaitingCaller
    {
        public WaitingCaller(CallerKey key) => (Key, SharedNode, IsolatedNode) = (key, new(this), new(this));

        public CallerKey Key { get; }

        public LinkedList<PendingRequest> Shared { get; } = [];

        public LinkedList<PendingRequest> Isolated { get; } = [];

        public LinkedListNode<WaitingCaller> SharedNode { get; }

        public LinkedListNode<WaitingCaller> IsolatedNode { get; }

        /// <summary>Queued lookups, shared and isolated.</summary>
        public int Count { get; set; }

        /// <summary>Lookups that its turn still allows.</summary>
        public int Deficit { get; set; }

        /// <summary>Lookups in flight in shared slots.</summary>
        public int InFlight { get; set; }

        /// <summary>Whether a statement that was taken for the isolated slot is in flight; another has to wait for it.</summary>
        public bool IsIsolatedInFlight { get; set; }

        /// <summary>Retries that are queued or in flight.</summary>
        public int Retries { get; set; }
    }
}
