using System.Diagnostics;
using System.Diagnostics.Metrics;
using CalcomAccounts.Api.Agents;
using CalcomAccounts.Domain;

namespace CalcomAccounts.Api.Observability;

/// <summary>What agents resolve to, how healthy that is, and how long it takes. No label names an agent, an organization or an account.</summary>
public sealed class ResolutionMetrics
{
    /// <summary>The meter's name.</summary>
    public const string MeterName = "CalcomAccounts";

    // Any tenant may store any word; a label takes these.
    private static readonly string[] s_statuses = ["active", "error", "unknown"];

    private readonly Counter<long> _resolutions;
    private readonly Counter<long> _statuses;
    private readonly Histogram<double> _duration;

    /// <summary>Makes the instruments.</summary>
    public ResolutionMetrics(IMeterFactory meters)
    {
        var meter = meters.Create(MeterName);
        _resolutions = meter.CreateCounter<long>("calcom.account.resolutions", "{resolution}", "Agents looked up, by what they resolve to");
        _statuses = meter.CreateCounter<long>("calcom.account.statuses", "{resolution}", "Agents that resolve to an account, by its stored status");
        _duration = meter.CreateHistogram(
            "calcom.account.resolution.duration",
            "s",
            "How long it takes to resolve, from the valid request to the decision",
            advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5] });
    }

    /// <summary>Counts one agent of a request.</summary>
    /// <param name="decision">Null where there is no such agent for the caller.</param>
    /// <param name="started">When the request began to be resolved, by <see cref="Stopwatch.GetTimestamp"/>.</param>
    public void Record(Decision? decision, long started)
    {
        var type = new KeyValuePair<string, object?>("type", decision is null ? "not_found" : Names.Of(decision.Effective.Type));
        _resolutions.Add(1, type);
        _duration.Record(Stopwatch.GetElapsedTime(started).TotalSeconds, type);
        if (decision?.Effective.Status is { } status && _statuses.Enabled)
        {
            var word = status.Trim().ToLowerInvariant();
            _statuses.Add(1, new KeyValuePair<string, object?>("status", s_statuses.Contains(word) ? word : "other"));
        }
    }
}
