using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace CalcomAccounts.Api;

/// <summary>
/// Ready is: the service is not stopping, and the database answers the very question that requests ask, to a login that
/// can't read what it must not. Live is: the process answers at all.
/// </summary>
internal sealed class Readiness(
    IAgentReader reader, LoginPrivileges login, IHostEnvironment environment, IHostApplicationLifetime lifetime) : IHealthCheck
{
    // Leaves the rest of the contract's 2 seconds to the answer.
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(1.5);

    public async Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken)
    {
        if (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            return HealthCheckResult.Unhealthy("the service is stopping");
        }

        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        patience.CancelAfter(s_patience);
        return await CheckDatabaseAsync(patience.Token).WaitAsync(patience.Token);
    }

    private async Task<HealthCheckResult> CheckDatabaseAsync(CancellationToken cancellationToken)
    {
        await reader.FindAsync([Guid.Empty], Caller.OfOrganization(Guid.Empty), cancellationToken);
        return !environment.IsDevelopment() && await login.CanReadApiKeyAsync(cancellationToken)
            ? HealthCheckResult.Unhealthy("the database login can read api_key: give the service one that is calcom_reader and nothing else")
            : HealthCheckResult.Healthy();
    }
}
