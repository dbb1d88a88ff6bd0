using CalcomAccounts.Application;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace CalcomAccounts.Api;

/// <summary>Ready is: the database answers the very question that requests ask. Live is: the process answers at all.</summary>
internal sealed class Readiness(IAgentReader reader) : IHealthCheck
{
    // Leaves the rest of the contract's 2 seconds to the answer.
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(1.5);

    public async Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken)
    {
        await reader.FindAsync(Guid.Empty, Caller.OfOrganization(Guid.Empty), cancellationToken)
            .WaitAsync(s_patience, cancellationToken);
        return HealthCheckResult.Healthy();
    }
}
