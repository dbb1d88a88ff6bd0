using System.Diagnostics;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Database;
using Microsoft.AspNetCore.Diagnostics.HealthChecks;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace CalcomAccounts.Api.Observability;

/// <summary>
/// The service is ready when it is not stopping, has read the keys of each authority once, and the database is no PostgreSQL that is too old
/// and answers the SELECT of lookups to a login that can't read API keys. It is live when the process answers at all.
/// </summary>
internal sealed class Readiness(
    IAgentReader reader,
    ServerVersion version,
    LoginPrivileges login,
    IReadOnlyList<TrustedIssuer> issuers,
    IHostEnvironment environment,
    IHostApplicationLifetime lifetime) : IHealthCheck
{
    // Leaves the rest of the 2 seconds in which readiness is answered to the answer.
    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(1.5);

    // However many probes come, the database is asked once at a time, and no more often than this.
    private static readonly TimeSpan s_interval = TimeSpan.FromMilliseconds(250);

    private readonly Lock _lock = new();
    private Task<HealthCheckResult>? _shared;
    private long _asked;

    public async Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken)
    {
        if (issuers.FirstOrDefault(issuer => !issuer.IsKnown) is { } unknown)
        {
            return HealthCheckResult.Unhealthy($"the keys of {unknown.Name} have never been read");
        }

        var result = lifetime.ApplicationStopping.IsCancellationRequested ? default : await AskAsync().WaitAsync(cancellationToken);
        return lifetime.ApplicationStopping.IsCancellationRequested ? HealthCheckResult.Unhealthy("the service is stopping") : result;
    }

    /// <summary>The result of the check in flight, or of the next one, which all probes share that come until then.</summary>
    private Task<HealthCheckResult> AskAsync()
    {
        lock (_lock)
        {
            if (_shared is null or { IsCompleted: true })
            {
                var elapsed = _shared is null ? s_interval : Stopwatch.GetElapsedTime(_asked);
                _shared = Task.Run(() => AskAfterAsync(elapsed < s_interval ? s_interval - elapsed : TimeSpan.Zero));
            }

            return _shared;
        }
    }

    private async Task<HealthCheckResult> AskAfterAsync(TimeSpan pause)
    {
        await Task.Delay(pause);
        Volatile.Write(ref _asked, Stopwatch.GetTimestamp());
        using var timeout = new CancellationTokenSource(s_timeout);
        try
        {
            return await CheckDatabaseAsync(timeout.Token).WaitAsync(timeout.Token);
        }
        catch (Exception exception)
        {
            // A result rather than an exception, which each probe would throw again.
            return HealthCheckResult.Unhealthy($"the database does not answer lookups: {DatabaseErrors.Describe(exception)}");
        }
    }

    private async Task<HealthCheckResult> CheckDatabaseAsync(CancellationToken cancellationToken)
    {
        await reader.ProbeAsync(cancellationToken);
        if (await version.FindFaultAsync(cancellationToken) is { } fault)
        {
            return HealthCheckResult.Unhealthy($"the database is {fault}");
        }

        return !environment.IsDevelopment() && await login.CanReadApiKeyAsync(cancellationToken)
            ? HealthCheckResult.Unhealthy("the database login can read api_key: give the service one that is calcom_reader and nothing else")
            : HealthCheckResult.Healthy();
    }
}

/// <summary>Composes the health endpoints.</summary>
internal static class HealthExtensions
{
    private static readonly HttpMethodMetadata s_readOnly = new([HttpMethods.Get, HttpMethods.Head]);

    public static IServiceCollection AddHealth(this IServiceCollection services)
    {
        services.AddSingleton<Readiness>().AddHealthChecks().AddCheck<Readiness>("readiness");
        return services;
    }

    /// <summary>The endpoints have timeouts of their own.</summary>
    public static IEndpointRouteBuilder MapHealth(this IEndpointRouteBuilder endpoints)
    {
        endpoints.MapHealthChecks("/health/live", new HealthCheckOptions { Predicate = _ => false }).WithMetadata(s_readOnly).DisableRequestTimeout();
        endpoints.MapHealthChecks("/health/ready").WithMetadata(s_readOnly).DisableRequestTimeout();
        return endpoints;
    }
}
