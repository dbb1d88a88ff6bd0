using System.Diagnostics;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>
/// The lookups that wait, served by deficit round robin over their callers: each gets the same number of lookups a turn, however many
/// requests or connections it has; and where there are others, one whose lookups would fill half of the statements waits for these.
/// Lookups that may hold others up wait apart. It is not thread-safe.
/// </summary>
internal sealed class LookupQueue(int maxLookups, int maxStatements, SuspectList suspects, TimeProvider clock)
{
    // So many lookups are half of a statement.
    private const int HalfStatement = 32;

    // How long a caller counts as one of the others after it was last served.
    private static readonly TimeSpan s_activity = TimeSpan.FromSeconds(1);

    // Lookups that a caller gets a turn. A batch has room for the turns of several.
    private const int Quantum = 16;

    private readonly Dictionary<CallerKey, WaitingCaller> _callers = [];
    private readonly LinkedList<WaitingCaller> _shared = [];
    private readonly LinkedList<WaitingCaller> _apart = [];
    private int _count;

    // The two callers that were served last.
    private (CallerKey Key, long Served) _latest;
    private (CallerKey Key, long Served) _latestOther;

    private int MaxLookupsOfOneCaller => Math.Max(1, maxLookups / 4);

    /// <summary>Queues a request. A caller of whom nothing waits may queue one of any length.</summary>
    /// <returns>The requests that had to make room for it, for the caller to fail.</returns>
    /// <exception cref="TooManyLookupsException">
    /// Its caller has its share of the queue already, or others have filled it, each with no more than this one would have.
    /// </exception>
    public IReadOnlyList<PendingRequest> Add(PendingRequest request)
    {
        var caller = CallerOf(request);
        if (caller.Count > 0 && caller.Count + request.Count > MaxLookupsOfOneCaller)
        {
            throw new TooManyLookupsException(isOfCaller: true);
        }

        List<PendingRequest> displaced = [];
        while (_count > 0 && _count + request.Count > maxLookups)
        {
            var heaviest = _callers.Values.MaxBy(other => other.Count)!;
            if (heaviest == caller || heaviest.Count <= caller.Count + 1)
            {
                if (displaced is not [])
                {
                    break;
                }

                Forget(caller);
                throw new TooManyLookupsException(isOfCaller: caller.Count > 0);
            }

            displaced.Add((heaviest.Apart.Last ?? heaviest.Shared.Last)!.Value);
            Unlink(heaviest, displaced[^1]);
            Forget(heaviest);
        }

        Append(caller, request);
        return displaced;
    }

    /// <summary>Queues a request again that has been taken, whatever its caller's share.</summary>
    public void Return(PendingRequest request) => Append(CallerOf(request), request);

    /// <summary>Takes back a request that nobody waits for any more.</summary>
    public void Remove(PendingRequest request)
    {
        var caller = CallerOf(request);
        Unlink(caller, request);
        Forget(caller);
    }

    /// <summary>The requests of the next statement, of any callers; none where nothing waits that may share one.</summary>
    /// <param name="maxBatch">How many different lookups may share one. A request that has more goes alone.</param>
    public List<PendingRequest> TakeShared(int maxBatch)
    {
        var batch = FillShared(maxBatch);
        batch.ForEach(request => CallerOf(request).InFlight += request.Count);
        return batch;
    }

    /// <summary>A statement of what was taken to share one has ended.</summary>
    public void EndShared(List<PendingRequest> batch)
    {
        foreach (var request in batch)
        {
            var caller = CallerOf(request);
            caller.InFlight -= request.Count;
            Forget(caller);
        }
    }

    /// <summary>
    /// The requests of the next statement that shares with no other caller: a suspect and those equal to it, or those of a caller that is
    /// in question; none where nothing waits apart.
    /// </summary>
    public List<PendingRequest> TakeApart(int maxBatch)
    {
        var batch = new List<PendingRequest>();
        if (_apart.First?.Value is not { } caller)
        {
            return batch;
        }

        var lookups = 0;
        for (var node = caller.Apart.First; node is not null; node = node.Next)
        {
            var request = node.Value;
            var isSuspect = suspects.Contains(request);
            if (batch is [] || (isSuspect ? request.IsEqualTo(batch[0]) : !suspects.Contains(batch[0]) && lookups + request.Count <= maxBatch))
            {
                batch.Add(request);
                lookups += isSuspect ? 0 : request.Count;
            }
        }

        batch.ForEach(request => Unlink(caller, request));
        if (caller.ApartNode.List is not null)
        {
            _apart.Remove(caller.ApartNode);
            _apart.AddLast(caller.ApartNode);
        }

        Forget(caller);
        return batch;
    }

    /// <summary>Whether anything waits that may be taken now.</summary>
    public bool HasShared => _shared.Any(caller => !HasEnoughInFlight(caller));

    public bool HasApart => _apart.Count > 0;

    /// <summary>What has failed is being read again in parts: meanwhile nothing else of its caller shares with others.</summary>
    public void BeginQuestioning(Caller caller)
    {
        var waiting = CallerOf(new CallerKey(caller));
        waiting.InQuestion++;
    }

    public void EndQuestioning(Caller caller)
    {
        var waiting = CallerOf(new CallerKey(caller));
        waiting.InQuestion--;
        if (!IsApart(waiting))
        {
            foreach (var request in waiting.Apart.Where(request => !suspects.Contains(request)).ToList())
            {
                Requeue(waiting, request);
            }
        }

        Forget(waiting);
    }

    private List<PendingRequest> FillShared(int maxBatch)
    {
        var batch = new List<PendingRequest>();
        var lookups = new HashSet<Lookup>();
        var passed = 0;
        while (lookups.Count < maxBatch && passed < _shared.Count)
        {
            var caller = _shared.First!.Value;
            if (IsApart(caller))
            {
                MoveApart(caller);
                continue;
            }

            if (HasEnoughInFlight(caller))
            {
                passed++;
                EndTurn(caller);
                continue;
            }

            passed = 0;
            var taken = batch.Count;
            caller.Deficit += Quantum;
            while (caller.Shared.First?.Value is { } request)
            {
                if (suspects.Contains(request))
                {
                    Requeue(caller, request);
                    continue;
                }

                if (request.Count > caller.Deficit)
                {
                    break;
                }

                if (batch.Count > 0 && lookups.Count + request.Lookups.Count(lookup => !lookups.Contains(lookup)) > maxBatch)
                {
                    // It goes with the next, in the same turn.
                    caller.Deficit -= taken == batch.Count ? Quantum : 0;
                    return batch;
                }

                caller.Deficit -= request.Count;
                _latestOther = _latest.Key == caller.Key ? _latestOther : _latest;
                _latest = (caller.Key, clock.GetTimestamp());
                Unlink(caller, request);
                batch.Add(request);
                lookups.UnionWith(request.Lookups);
            }

            EndTurn(caller);
        }

        return batch;
    }

    // Others would wait for a long statement of its own in each slot.
    private bool HasEnoughInFlight(WaitingCaller caller) =>
        caller.InFlight >= HalfStatement * Math.Max(1, maxStatements / 2)
        && (_shared.Count > 1 || clock.GetElapsedTime((_latest.Key == caller.Key ? _latestOther : _latest).Served) < s_activity);

    private bool IsApart(WaitingCaller caller) => caller.InQuestion > 0 || suspects.IsSuspect(caller.Key);

    private void Append(WaitingCaller caller, PendingRequest request)
    {
        var isApart = IsApart(caller) || suspects.Contains(request);
        (isApart ? caller.Apart : caller.Shared).AddLast(request.Node);
        caller.Count += request.Count;
        _count += request.Count;
        if (isApart && caller.ApartNode.List is null)
        {
            _apart.AddLast(caller.ApartNode);
        }
        else if (!isApart && caller.SharedNode.List is null)
        {
            _shared.AddLast(caller.SharedNode);
        }
    }

    private void Unlink(WaitingCaller caller, PendingRequest request)
    {
        request.Node.List!.Remove(request.Node);
        caller.Count -= request.Count;
        _count -= request.Count;
        if (caller.Apart.Count is 0 && caller.ApartNode.List is not null)
        {
            _apart.Remove(caller.ApartNode);
        }

        if (caller.Shared.Count is 0 && caller.SharedNode.List is not null)
        {
            _shared.Remove(caller.SharedNode);
            caller.Deficit = 0;
        }
    }

    // It may belong elsewhere by now: apart, or no longer.
    private void Requeue(WaitingCaller caller, PendingRequest request)
    {
        Unlink(caller, request);
        Append(caller, request);
    }

    private void MoveApart(WaitingCaller caller)
    {
        foreach (var request in caller.Shared.ToList())
        {
            Requeue(caller, request);
        }
    }

    private void EndTurn(WaitingCaller caller)
    {
        if (caller.SharedNode.List is not null)
        {
            _shared.Remove(caller.SharedNode);
            _shared.AddLast(caller.SharedNode);
        }

        Forget(caller);
    }

    private WaitingCaller CallerOf(PendingRequest request) => CallerOf(new CallerKey(request.Caller));

    private WaitingCaller CallerOf(CallerKey key)
    {
        if (!_callers.TryGetValue(key, out var caller))
        {
            _callers.Add(key, caller = new(key));
        }

        return caller;
    }

    private void Forget(WaitingCaller caller)
    {
        if (caller is { Count: 0, InQuestion: 0, InFlight: 0 })
        {
            _callers.Remove(caller.Key);
        }
    }

    private sealed class WaitingCaller
    {
        public WaitingCaller(CallerKey key) => (Key, SharedNode, ApartNode) = (key, new(this), new(this));

        public CallerKey Key { get; }

        public LinkedList<PendingRequest> Shared { get; } = [];

        public LinkedList<PendingRequest> Apart { get; } = [];

        public LinkedListNode<WaitingCaller> SharedNode { get; }

        public LinkedListNode<WaitingCaller> ApartNode { get; }

        /// <summary>Lookups that wait, shared and apart.</summary>
        public int Count { get; set; }

        /// <summary>Lookups of its turn that are left to it.</summary>
        public int Deficit { get; set; }

        /// <summary>Lookups in shared statements in flight.</summary>
        public int InFlight { get; set; }

        /// <summary>How many parts of what has failed are being read again.</summary>
        public int InQuestion { get; set; }
    }
}

/// <summary>Whose share of the queue a lookup takes: the token's organization's, else its subject's, whatever organization that names.</summary>
internal readonly record struct CallerKey(Guid? OrgId, string? Subject)
{
    public CallerKey(Caller caller)
        : this(caller.Subject is null ? caller.OrgId : null, caller.Subject)
    {
    }
}

/// <summary>The lookups of one request, which are read in one statement.</summary>
internal sealed class PendingRequest : TaskCompletionSource<IReadOnlyList<Agent?>>
{
    private readonly IReadOnlyList<Guid> _agentIds;

    // One goes on where its batch is answered, as to wake a thread for each would cost more than it does. Many have more to do.
    public PendingRequest(IReadOnlyList<Guid> agentIds, Caller caller)
        : base(agentIds.Count > 1 ? TaskCreationOptions.RunContinuationsAsynchronously : TaskCreationOptions.None)
    {
        _agentIds = agentIds;
        Caller = caller;
        Lookups = [.. agentIds.Distinct().Select(agentId => new Lookup(agentId, caller))];
        Node = new(this);
    }

    public Caller Caller { get; }

    /// <summary>What is read: an agent that is asked for twice, once.</summary>
    public IReadOnlyList<Lookup> Lookups { get; }

    /// <summary>What it takes of its caller's share: an agent that is asked for twice is answered twice.</summary>
    public int Count => _agentIds.Count;

    public LinkedListNode<PendingRequest> Node { get; }

    /// <summary>The request's own trace, where it has one.</summary>
    public ActivityContext Trace { get; } = Activity.Current?.Context ?? default;

    /// <summary>What it went with last; null while it is queued.</summary>
    public Batch? Batch { get; set; }

    public bool IsEqualTo(PendingRequest other) => Lookups.SequenceEqual(other.Lookups);

    public void SetAgents(IReadOnlyDictionary<Lookup, Agent?> agents) =>
        TrySetResult([.. _agentIds.Select(agentId => agents[new(agentId, Caller)])]);
}
