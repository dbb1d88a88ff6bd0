namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>
/// Which lookups and callers are quarantined: <see cref="BatchingAgentReader"/> explains what that means. Bounded, and not thread-safe.
/// </summary>
internal sealed class LookupQuarantine(TimeProvider clock)
{
    private const int MaxEntries = 10_000;

    // A caller with so many different requests that failed is quarantined as a whole.
    private const int CallerFailureThreshold = 3;

    private static readonly TimeSpan s_duration = TimeSpan.FromSeconds(10);

    // The values are timestamps of the clock.
    private readonly Dictionary<Guid, long> _agents = [];
    private readonly Dictionary<Lookup, long> _lookups = [];
    private readonly Dictionary<CallerKey, (int Failures, long Since)> _callers = [];

    // Callers whose pages failed: these are quarantined, but not the callers' lookups.
    private readonly Dictionary<CallerKey, long> _pages = [];

    /// <summary>
    /// Quarantines the lookups of a request that failed on its own. A single agent is quarantined for every caller, because its rows are
    /// the cause. Of a list, and where only organizations were read, the cause is unknown, so its lookups are for this caller only. Of a page,
    /// all of the caller's pages are.
    /// </summary>
    public void Add(PendingRequest request)
    {
        var now = clock.GetTimestamp();
        if (request.Page is not null)
        {
            Trim(_pages, since => since);
            _pages[request.CallerKey] = now;
            return;
        }

        Trim(_agents, since => since);
        Trim(_lookups, since => since);
        Trim(_callers, caller => caller.Since);
        if (!Contains(request))
        {
            _callers[request.CallerKey] = (FailuresOf(request.CallerKey) + 1, now);
        }
        else if (_callers.TryGetValue(request.CallerKey, out var caller))
        {
            _callers[request.CallerKey] = caller with { Since = now };
        }

        if (request.Lookups is [var single] && request.Statement.Kind is StatementKind.Agents)
        {
            _agents[single.AgentId] = now;
        }
        else
        {
            foreach (var lookup in request.Lookups)
            {
                _lookups[lookup] = now;
            }
        }
    }

    /// <summary>
    /// Releases the lookups of a request that was answered; pages stay until their time is over. An agent that this caller can't see stays
    /// quarantined, because its accounts were not read.
    /// </summary>
    public void Release(PendingRequest request, IReadOnlyDictionary<Lookup, LookupResult> results)
    {
        if (_agents.Count + _lookups.Count is 0)
        {
            return;
        }

        var found = request.Lookups.Where(lookup => results[lookup] is { Agent: not null } or { OrgIds: not null }).ToList();
        if (found is not [] && Contains(request) && _callers.TryGetValue(request.CallerKey, out var caller))
        {
            _callers[request.CallerKey] = caller with { Failures = Math.Max(0, caller.Failures - 1) };
        }

        foreach (var lookup in found)
        {
            _agents.Remove(lookup.AgentId);
            _lookups.Remove(lookup);
        }
    }

    /// <summary>Whether any lookup of the request is quarantined, or, of a page, its caller's pages are.</summary>
    public bool Contains(PendingRequest request) =>
        request.Page is not null ? IsRecent(_pages, request.CallerKey)
        : _agents.Count + _lookups.Count > 0
            && request.Lookups.Any(lookup => IsRecent(_agents, lookup.AgentId) || IsRecent(_lookups, lookup));

    /// <summary>Whether the caller is quarantined as a whole.</summary>
    public bool ContainsCaller(CallerKey caller) => _callers.Count > 0 && FailuresOf(caller) >= CallerFailureThreshold;

    private int FailuresOf(CallerKey key) =>
        _callers.TryGetValue(key, out var caller) && clock.GetElapsedTime(caller.Since) < s_duration ? caller.Failures : 0;

    private bool IsRecent<TKey>(Dictionary<TKey, long> entries, TKey key)
        where TKey : notnull =>
        entries.TryGetValue(key, out var since) && clock.GetElapsedTime(since) < s_duration;

    private void Trim<TKey, TValue>(Dictionary<TKey, TValue> entries, Func<TValue, long> since)
        where TKey : notnull
    {
        if (entries.Count < MaxEntries)
        {
            return;
        }

        foreach (var expired in entries.Where(entry => clock.GetElapsedTime(since(entry.Value)) >= s_duration).ToList())
        {
            entries.Remove(expired.Key);
        }

        if (entries.Count >= MaxEntries)
        {
            entries.Clear();
        }
    }
}
