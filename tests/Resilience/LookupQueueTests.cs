using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Agents;

namespace CalcomAccounts.Tests.Resilience;

/// <summary>Which queued lookups are batched next, and which are refused when the queue is full.</summary>
public sealed class LookupQueueTests
{
    private readonly LookupQuarantine _quarantine = new(TimeProvider.System);

    [Fact]
    public void SingleCaller_FillsTheWholeBatchInOrderOfArrival()
    {
        var queue = Queue();
        var requests = Add(queue, Organization(), Enumerable.Repeat(1, 100));

        Assert.Equal(requests.Take(64), queue.TakeShared(64));
        Assert.Equal(requests.Skip(64), queue.TakeShared(64));
        Assert.False(queue.HasShared);
    }

    [Fact]
    public void TwoCallers_ShareTheBatchEquallyByLookups()
    {
        var queue = Queue();
        Add(queue, Organization(), Enumerable.Repeat(1, 500));
        var late = Add(queue, Organization(), Enumerable.Repeat(1, 40));

        Assert.Equal(late.Take(32), queue.TakeShared(64).Where(late.Contains));
        Assert.Equal(late.Skip(32), queue.TakeShared(64).Where(late.Contains));
    }

    [Fact]
    public void ListsAndSingleLookups_GetEqualShares()
    {
        var queue = Queue(maxLookups: 100_000);
        Add(queue, Organization(), Enumerable.Repeat(100, 50));
        var singles = Add(queue, Organization(), Enumerable.Repeat(1, 1000));
        var (ofLists, ofSingles) = (0, 0);
        for (var i = 0; i < 20; i++)
        {
            var batch = queue.TakeShared(64);
            ofSingles += batch.Count(singles.Contains);
            ofLists += batch.Where(request => !singles.Contains(request)).Sum(request => request.Count);
            Assert.True(batch.Sum(request => request.Count) <= 64 || batch.Count is 1);
        }

        Assert.InRange(ofLists, ofSingles * 0.7, ofSingles * 1.5);
    }

    [Fact]
    public void SingleCaller_HasAllStatementsAndHalfOfThemBesideOthers()
    {
        var clock = new ManualClock { Now = TimeSpan.FromHours(1).Ticks };
        var queue = Queue(maxStatements: 2, clock: clock);
        var (busy, other) = (Organization(), Organization());
        Add(queue, busy, Enumerable.Repeat(1, 640));

        var batches = new[] { queue.TakeShared(64), queue.TakeShared(64) };
        Assert.All(batches, batch => Assert.Equal(64, batch.Count));
        queue.EndShared(batches[0]);
        var others = Add(queue, other, [1]);
        Assert.Equal(others, queue.TakeShared(64));
        Assert.False(queue.HasShared);
        Assert.Empty(queue.TakeShared(64));
        queue.EndShared(batches[1]);
        queue.EndShared(others);
        Assert.Equal(64, queue.TakeShared(64).Count);
        Assert.Empty(queue.TakeShared(64));

        clock.Now += TimeSpan.FromSeconds(2).Ticks;
        Assert.True(queue.HasShared);
        Assert.Equal(64, queue.TakeShared(64).Count);
    }

    [Fact]
    public void SubjectWithManyOrganizations_CountsAsOneCaller()
    {
        var queue = Queue();
        var other = Add(queue, Organization(), Enumerable.Repeat(1, 32));
        foreach (var _ in Enumerable.Range(0, 30))
        {
            Add(queue, Caller.OfSubject("somebody").NarrowedTo(Guid.NewGuid()), [1, 1]);
        }

        Assert.Equal(32, queue.TakeShared(64).Count(other.Contains));
    }

    [Fact]
    public void CallerWithAQuarterOfTheQueue_IsRefusedAndOthersAreQueued()
    {
        var queue = Queue(maxLookups: 40);
        var (one, other) = (Organization(), Organization());
        Add(queue, one, [4, 6]);

        Assert.Throws<TooManyLookupsException>(() => Add(queue, one, [1]));
        Add(queue, other, [10]);
        Assert.Throws<TooManyLookupsException>(() => Add(queue, other, [1]));
    }

    [Fact]
    public void LongListOfCallerWithNothingQueued_IsQueued()
    {
        var queue = Queue(maxLookups: 10);

        Add(queue, Organization(), [100]);
        Assert.Equal(100, Assert.Single(queue.TakeShared(64)).Count);
    }

    [Fact]
    public void FullQueue_EvictsFromTheCallerWithMostQueued()
    {
        var queue = Queue(maxLookups: 40);
        var heavy = Organization();
        var last = Add(queue, heavy, [1, 1, 1, 7])[^1];
        foreach (var _ in Enumerable.Range(0, 30))
        {
            Add(queue, Organization(), [1]);
        }

        Assert.Equal([last], queue.Add(new([Guid.NewGuid()], Organization())));
        Assert.Throws<TooManyLookupsException>(() => Add(queue, heavy, Enumerable.Repeat(1, 8)));
    }

    [Fact]
    public void FullQueue_EvictsSeveralRequestsForALongList()
    {
        var queue = Queue(maxLookups: 400);
        foreach (var _ in Enumerable.Range(0, 8))
        {
            Add(queue, Organization(), [50]);
        }

        Assert.Equal(2, queue.Add(new([.. Enumerable.Range(0, 100).Select(_ => Guid.NewGuid())], Organization())).Count);
    }

    [Fact]
    public void FullQueue_NobodyHasMoreQueued_RefusesTheNext()
    {
        var queue = Queue(maxLookups: 4);
        foreach (var _ in Enumerable.Range(0, 4))
        {
            Add(queue, Organization(), [1]);
        }

        Assert.False(Assert.Throws<TooManyLookupsException>(() => Add(queue, Organization(), [1])).IsCallerLimit);
    }

    [Fact]
    public void RemovedRequest_FreesItsPlaceInTheQueue()
    {
        var queue = Queue(maxLookups: 4);
        var caller = Organization();
        queue.Remove(Add(queue, caller, [1])[0]);

        var next = Add(queue, caller, [1]);
        Assert.Throws<TooManyLookupsException>(() => Add(queue, caller, [1]));
        Assert.Equal(next, queue.TakeShared(64));
    }

    [Fact]
    public void EqualLookups_TakeOnePlaceInTheBatch()
    {
        var queue = Queue();
        var (caller, agent) = (Organization(), Guid.NewGuid());
        foreach (var _ in Enumerable.Range(0, 200))
        {
            queue.Add(new([agent, agent], caller));
        }

        Assert.Equal(200, queue.TakeShared(64).Count);
        Assert.Single(new PendingRequest([agent, agent], caller).Lookups);
    }

    [Fact]
    public void QuarantinedLookup_RunsOnlyWithEqualsUntilItSucceeds()
    {
        var queue = Queue();
        var (caller, other, agent) = (Organization(), Organization(), Guid.NewGuid());
        _quarantine.Add(new([agent], caller));
        var innocent = Add(queue, caller, [1])[0];
        PendingRequest quarantined = new([agent], caller), equal = new([agent], caller), ofOther = new([agent], other);
        foreach (var request in new[] { quarantined, ofOther, equal })
        {
            queue.Add(request);
        }

        Assert.Equal([innocent], queue.TakeShared(64));
        Assert.False(queue.HasShared);
        Assert.Equal([quarantined, equal], queue.TakeIsolated(64));
        Assert.Equal([ofOther], queue.TakeIsolated(64));

        _quarantine.Release(quarantined, new Dictionary<Lookup, LookupResult> { [quarantined.Lookups[0]] = default });
        Assert.True(_quarantine.Contains(quarantined));
        _quarantine.Release(quarantined, new Dictionary<Lookup, LookupResult> { [quarantined.Lookups[0]] = new(new([], null, null)) });
        queue.Add(quarantined);
        Assert.Equal([quarantined], queue.TakeShared(64));
    }

    [Fact]
    public void QueuedLookupThatIsQuarantined_LeavesTheSharedBatch()
    {
        var queue = Queue();
        var requests = Add(queue, Organization(), [1, 1]);
        _quarantine.Add(requests[0]);

        Assert.Equal([requests[1]], queue.TakeShared(64));
        Assert.Equal([requests[0]], queue.TakeIsolated(64));
    }

    [Fact]
    public void FailedList_IsQuarantinedForItsCallerOnly()
    {
        var (caller, other, agents) = (Organization(), Organization(), new[] { Guid.NewGuid(), Guid.NewGuid() });
        _quarantine.Add(new(agents, caller));

        Assert.All(agents, agent => Assert.True(_quarantine.Contains(new([agent], caller))));
        Assert.All(agents, agent => Assert.False(_quarantine.Contains(new([agent], other))));
    }

    [Fact]
    public void QuestionedCaller_SharesNoBatchUntilQuestioningEnds()
    {
        var queue = Queue();
        var caller = Organization();
        var before = Add(queue, caller, [1, 1]);
        queue.BeginRetry(new(caller));
        var after = Add(queue, caller, [1]);
        var others = Add(queue, Organization(), [1]);

        Assert.Equal(others, queue.TakeShared(64));
        Assert.Equal([.. before, .. after], queue.TakeIsolated(64).OrderBy(request => after.Contains(request)));

        var waiting = Add(queue, caller, [1]);
        queue.EndRetry(new(caller));
        Assert.False(queue.HasIsolated);
        Assert.Equal(waiting, queue.TakeShared(64));
    }

    [Fact]
    public void CallerWithThreeFailedRequests_IsQuarantinedForTenSeconds()
    {
        var clock = new ManualClock();
        var quarantine = new LookupQuarantine(clock);
        var caller = Organization();
        for (var i = 0; i < 3; i++)
        {
            Assert.False(quarantine.ContainsCaller(new(caller)));
            var failing = new PendingRequest([Guid.NewGuid()], caller);
            quarantine.Add(failing);
            quarantine.Add(failing);
        }

        Assert.True(quarantine.ContainsCaller(new(caller)));
        Assert.False(quarantine.ContainsCaller(new(Organization())));
        clock.Now += TimeSpan.FromSeconds(11).Ticks;
        Assert.False(quarantine.ContainsCaller(new(caller)));
    }

    [Fact]
    public void Batch_OfADistributedDatabase_HasRequestsOfOneOrganization()
    {
        var queue = Queue();
        Guid[] orgs = [Guid.NewGuid(), Guid.NewGuid()];
        var ofFirst = new[] { AddDistributed(queue, Caller.OfOrganization(orgs[0])), AddDistributed(queue, Caller.OfSubject("member").NarrowedTo(orgs[0])) };
        var ofSecond = new[] { AddDistributed(queue, Caller.OfOrganization(orgs[1])), AddDistributed(queue, Caller.OfSubject("member").NarrowedTo(orgs[1])) };
        var ofNone = new[] { AddDistributed(queue, Caller.OfSubject("member")), AddDistributed(queue, Caller.OfSubject("other")) };

        var batches = Enumerable.Range(0, 4).Select(_ => queue.TakeShared(64)).ToList();

        Assert.Equal(ofFirst, batches[0]);
        Assert.Equal(ofSecond, batches[1]);
        Assert.Equal(ofNone.ToHashSet(), batches[2].ToHashSet());
        Assert.Empty(batches[3]);
    }

    // A caller whose request is of another organization than the batch keeps its turn, however often others fill a batch.
    [Fact]
    public void CallerOfAnotherOrganization_KeepsItsTurn()
    {
        var queue = Queue();
        var (busy, other) = (Guid.NewGuid(), Guid.NewGuid());
        for (var i = 0; i < 200; i++)
        {
            AddDistributed(queue, Caller.OfOrganization(busy));
            AddDistributed(queue, Caller.OfSubject("member").NarrowedTo(busy));
        }

        var waiting = AddDistributed(queue, Caller.OfOrganization(other));

        Assert.DoesNotContain(waiting, queue.TakeShared(64));
        Assert.Equal([waiting], queue.TakeShared(64));
    }

    [Fact]
    public void IsolatedBatch_OfADistributedDatabase_HasRequestsOfOneOrganization()
    {
        var queue = Queue();
        var caller = Caller.OfSubject("member");
        Guid[] orgs = [Guid.NewGuid(), Guid.NewGuid()];
        queue.BeginRetry(new(caller));
        var requests = orgs.Select(org => AddDistributed(queue, caller.NarrowedTo(org))).ToList();

        Assert.Equal([requests[0]], queue.TakeIsolated(64));
        queue.EndIsolated(new(caller));
        Assert.Equal([requests[1]], queue.TakeIsolated(64));
    }

    [Fact]
    public void Pages_HaveAStatementEach_InTurnsOfTheCallers()
    {
        var queue = Queue();
        var (heavy, light) = (Organization(), Organization());
        List<PendingRequest> ofHeavy = [.. Enumerable.Range(0, 3).Select(_ => new PendingRequest(new Page(After: null, Count: 1001), heavy))];
        ofHeavy.ForEach(page => queue.Add(page));
        var ofLight = new PendingRequest(new Page(After: null, Count: 51), light);
        queue.Add(ofLight);

        var batches = Enumerable.Range(0, 5).Select(_ => queue.TakeShared(64)).ToList();

        Assert.All(batches[..4], batch => Assert.Single(batch));
        Assert.Empty(batches[4]);
        Assert.Equal(ofLight, batches[0][0]);
        Assert.Equal(ofHeavy, batches[1..4].Select(batch => batch[0]));
    }

    [Fact]
    public void QuarantinedPages_LeaveTheCallersLookupsAlone()
    {
        var caller = Organization();
        PendingRequest page = new(new Page(After: null, Count: 51), caller), other = new(new Page(After: null, Count: 51), Organization()), lookup = new([Guid.NewGuid()], caller);

        for (var i = 0; i < 5; i++)
        {
            _quarantine.Add(page);
        }

        Assert.True(_quarantine.Contains(page));
        Assert.False(_quarantine.Contains(other) || _quarantine.Contains(lookup) || _quarantine.ContainsCaller(new(caller)));
    }

    [Fact]
    public void CallerWithAnIsolatedStatementInFlight_WaitsForIt()
    {
        var queue = Queue();
        var (caller, other) = (Organization(), Organization());
        queue.BeginRetry(new(caller));
        queue.BeginRetry(new(other));
        var first = Add(queue, caller, [1]);
        Assert.Equal(first, queue.TakeIsolated(64));

        var second = Add(queue, caller, [1]);
        Assert.False(queue.HasIsolated);
        var ofOther = Add(queue, other, [1]);
        Assert.Equal(ofOther, queue.TakeIsolated(64));
        Assert.Empty(queue.TakeIsolated(64));

        queue.EndIsolated(new(caller));
        Assert.Equal(second, queue.TakeIsolated(64));
    }

    // By default more concurrent statements than any test takes.
    private LookupQueue Queue(int maxLookups = 4096, int maxStatements = 1000, TimeProvider? clock = null) => new(maxLookups, maxStatements, _quarantine, clock ?? TimeProvider.System);

    private static Caller Organization() => Caller.OfOrganization(Guid.NewGuid());

    private static List<PendingRequest> Add(LookupQueue queue, Caller caller, IEnumerable<int> lengths) => [.. lengths.Select(length =>
    {
        var request = new PendingRequest([.. Enumerable.Range(0, length).Select(_ => Guid.NewGuid())], caller);
        Assert.Empty(queue.Add(request));
        return request;
    })];

    private static PendingRequest AddDistributed(LookupQueue queue, Caller caller)
    {
        var request = new PendingRequest([Guid.NewGuid()], caller, new(StatementKind.Agents, caller.OrgId));
        Assert.Empty(queue.Add(request));
        return request;
    }

    private sealed class ManualClock : TimeProvider
    {
        public long Now { get; set; }

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public override long GetTimestamp() => Now;
    }
}
