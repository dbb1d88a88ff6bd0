using System.Diagnostics;
using System.Diagnostics.Metrics;
using CalcomAccounts.Domain;
using MediatR;

namespace CalcomAccounts.Application;

/// <summary>
/// The MediatR pipeline behavior that counts what agents resolve to and measures how long that takes, by operation:
/// <c>docs/operations.md</c>. No label names an agent, an organization or an account.
/// </summary>
public sealed class ResolutionMetrics
    : IPipelineBehavior<GetAgentAccount, Decision?>,
        IPipelineBehavior<GetAgentAccounts, IReadOnlyList<Decision?>>,
        IPipelineBehavior<ListAgentAccounts, AgentAccountPage>
{
    /// <summary>The meter to export.</summary>
    public const string MeterName = "CalcomAccounts";

    // A tenant may store any status, but a label's values must be few: any other status counts as 'other'.
    private static readonly string[] s_statuses = ["active", "error", "unknown"];

    private readonly Counter<long> _resolutions;
    private readonly Counter<long> _statuses;
    private readonly Histogram<double> _duration;

    /// <summary>Creates the instruments on the meter <see cref="MeterName"/>.</summary>
    public ResolutionMetrics(IMeterFactory meters)
    {
        var meter = meters.Create(MeterName);
        _resolutions = meter.CreateCounter<long>("calcom.account.resolutions", "{resolution}", "Agents looked up, by operation and by what they resolve to");
        _statuses = meter.CreateCounter<long>("calcom.account.statuses", "{resolution}", "Agents that resolve to an account, by operation and by its stored status");
        _duration = meter.CreateHistogram(
            "calcom.account.resolution.duration",
            "s",
            "How long a request takes from its validation to its decisions, by operation",
            advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5] });
    }

    /// <inheritdoc/>
    public async Task<Decision?> Handle(GetAgentAccount request, CancellationToken cancellationToken, RequestHandlerDelegate<Decision?> next)
    {
        var started = Stopwatch.GetTimestamp();
        var decision = await next();
        RecordDuration(request.Operation, started);
        Record(request.Operation, decision);
        return decision;
    }

    /// <inheritdoc/>
    public async Task<IReadOnlyList<Decision?>> Handle(
        GetAgentAccounts request, CancellationToken cancellationToken, RequestHandlerDelegate<IReadOnlyList<Decision?>> next)
    {
        var started = Stopwatch.GetTimestamp();
        var decisions = await next();
        RecordDuration(GetAgentAccounts.Operation, started);
        foreach (var decision in decisions)
        {
            Record(GetAgentAccounts.Operation, decision);
        }

        return decisions;
    }

    /// <inheritdoc/>
    public async Task<AgentAccountPage> Handle(
        ListAgentAccounts request, CancellationToken cancellationToken, RequestHandlerDelegate<AgentAccountPage> next)
    {
        var started = Stopwatch.GetTimestamp();
        var page = await next();
        RecordDuration(ListAgentAccounts.Operation, started);
        foreach (var agent in page.Agents)
        {
            Record(ListAgentAccounts.Operation, agent.Decision);
        }

        return page;
    }

    private void RecordDuration(string operation, long started) =>
        _duration.Record(Stopwatch.GetElapsedTime(started).TotalSeconds, new KeyValuePair<string, object?>("operation", operation));

    private void Record(string operation, Decision? decision)
    {
        _resolutions.Add(1, new("operation", operation), new("type", decision is null ? "not_found" : WireNames.Of(decision.Effective.Type)));
        if (decision?.Effective.Status is { } status && _statuses.Enabled)
        {
            var word = status.Trim().ToLowerInvariant();
            _statuses.Add(1, new("operation", operation), new("status", s_statuses.Contains(word) ? word : "other"));
        }
    }
}
