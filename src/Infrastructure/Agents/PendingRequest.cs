using System.Diagnostics;
using CalcomAccounts.Application;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>The lookups of one request, which are never split over statements, and the task that its caller awaits.</summary>
internal sealed class PendingRequest : TaskCompletionSource<IReadOnlyList<LookupResult>>
{
    // An agent of a page costs less than a lookup of its own.
    private const int AgentsPerLookup = 10;

    private readonly IReadOnlyList<Guid> _agentIds;

    // A single lookup continues on the thread that completes its batch, because waking another thread costs more than the rest of
    // the request. A list or a page has more left to do.
    public PendingRequest(IReadOnlyList<Guid> agentIds, Caller caller, StatementKey statement = default)
        : base(agentIds.Count is 1 ? TaskCreationOptions.None : TaskCreationOptions.RunContinuationsAsynchronously)
    {
        _agentIds = agentIds;
        Caller = caller;
        CallerKey = new(caller);
        Statement = statement;
        Lookups = [.. agentIds.Distinct().Select(agentId => new Lookup(agentId, caller))];
        QueueNode = new(this);
    }

    /// <summary>A page, which has no lookups.</summary>
    public PendingRequest(Page page, Caller caller)
        : this([], caller, new(StatementKind.Page, caller.OrgId)) => Page = page;

    /// <summary>The page that is asked for; null for lookups.</summary>
    public Page? Page { get; }

    /// <summary>The page's agents, once they have been read.</summary>
    public IReadOnlyList<ListedAgent> Listed { get; set; } = [];

    public Caller Caller { get; }

    public CallerKey CallerKey { get; }

    /// <summary>Requests with other keys can't share its statement.</summary>
    public StatementKey Statement { get; }

    /// <summary>Without duplicates.</summary>
    public IReadOnlyList<Lookup> Lookups { get; }

    /// <summary>How many lookups it counts as in its caller's share: duplicates count, because each is answered.</summary>
    public int Count => Page is null ? _agentIds.Count : 1 + (Page.Count / AgentsPerLookup);

    /// <summary>Its place in <see cref="LookupQueue"/>; in no list while it isn't queued.</summary>
    public LinkedListNode<PendingRequest> QueueNode { get; }

    /// <summary>The trace of the request; default where it has none.</summary>
    public ActivityContext Trace { get; } = Activity.Current?.Context ?? default;

    /// <summary>The batch that it was last sent with; null before that, and while a retry is due.</summary>
    public Batch? Batch { get; set; }

    public bool CanShareStatementWith(PendingRequest other) => Statement == other.Statement && Page is null;

    public bool HasSameLookups(PendingRequest other) => Page is null ? Lookups.SequenceEqual(other.Lookups) : this == other;

    public void TrySetResults(IReadOnlyDictionary<Lookup, LookupResult> results) =>
        TrySetResult([.. _agentIds.Select(agentId => results[new(agentId, Caller)])]);
}
