using CalcomAccounts.Domain;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>
/// What has lately failed, or taken too long, when it was read alone: for some seconds such lookups share a statement with no other.
/// It is bounded, and not thread-safe.
/// </summary>
internal sealed class SuspectList(TimeProvider clock)
{
    private const int MaxEntries = 10_000;

    // A caller of whom so many different requests have failed is suspect as a whole.
    private const int MaxFailuresOfOneCaller = 3;

    private static readonly TimeSpan s_memory = TimeSpan.FromSeconds(10);

    private readonly Dictionary<Guid, long> _agents = [];
    private readonly Dictionary<Lookup, long> _lookups = [];
    private readonly Dictionary<CallerKey, (int Failures, long Since)> _callers = [];

    /// <summary>
    /// Remembers a request that failed alone. Of a single agent it is the agent's rows that do, whoever asks; of many it can't be told
    /// which, so they are suspect for this caller only.
    /// </summary>
    public void Add(PendingRequest request)
    {
        var now = clock.GetTimestamp();
        Trim(_agents, since => since);
        Trim(_lookups, since => since);
        Trim(_callers, caller => caller.Since);
        if (!Contains(request))
        {
            var key = new CallerKey(request.Caller);
            _callers[key] = (FailuresOf(key) + 1, now);
        }
        else if (_callers.TryGetValue(new(request.Caller), out var caller))
        {
            _callers[new(request.Caller)] = caller with { Since = now };
        }

        if (request.Lookups is [var one])
        {
            _agents[one.AgentId] = now;
        }
        else
        {
            foreach (var lookup in request.Lookups)
            {
                _lookups[lookup] = now;
            }
        }
    }

    /// <summary>Forgets what has been read without trouble; an agent that was out of the caller's reach has not been.</summary>
    public void Remove(PendingRequest request, IReadOnlyDictionary<Lookup, Agent?> agents)
    {
        if (_agents.Count + _lookups.Count is 0)
        {
            return;
        }

        var key = new CallerKey(request.Caller);
        var read = request.Lookups.Where(lookup => agents[lookup] is not null).ToList();
        if (read is not [] && Contains(request) && _callers.TryGetValue(key, out var caller))
        {
            _callers[key] = caller with { Failures = Math.Max(0, caller.Failures - 1) };
        }

        foreach (var lookup in read)
        {
            _agents.Remove(lookup.AgentId);
            _lookups.Remove(lookup);
        }
    }

    public bool Contains(PendingRequest request) =>
        _agents.Count + _lookups.Count > 0
        && request.Lookups.Any(lookup => IsRecent(_agents, lookup.AgentId) || IsRecent(_lookups, lookup));

    public bool IsSuspect(CallerKey caller) => _callers.Count > 0 && FailuresOf(caller) >= MaxFailuresOfOneCaller;

    private int FailuresOf(CallerKey key) =>
        _callers.TryGetValue(key, out var caller) && clock.GetElapsedTime(caller.Since) < s_memory ? caller.Failures : 0;

    private bool IsRecent<TKey>(Dictionary<TKey, long> since, TKey key)
        where TKey : notnull =>
        since.TryGetValue(key, out var timestamp) && clock.GetElapsedTime(timestamp) < s_memory;

    private void Trim<TKey, TValue>(Dictionary<TKey, TValue> entries, Func<TValue, long> since)
        where TKey : notnull
    {
        if (entries.Count >= MaxEntries)
        {
            foreach (var old in entries.Where(entry => clock.GetElapsedTime(since(entry.Value)) >= s_memory).ToList())
            {
                entries.Remove(old.Key);
            }

            if (entries.Count >= MaxEntries)
            {
                entries.Clear();
            }
        }
    }
}
