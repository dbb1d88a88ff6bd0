
namespace CalcomAccounts.Api.Hosting;

/// <summary>What each step of a stop may take, so that all of them fit into <c>ShutdownTimeoutSeconds</c>.</summary>
/// <param name="total">The whole stop, from the signal to the exit.</param>
internal sealed class ShutdownTimeouts(TimeSpan total)
{
    // Two seconds for telemetry, one for the log, one in which Kestrel waits for the connections that it has aborted, and the exit.
    private readonly TimeSpan _afterRequests = TimeSpan.FromTicks(Math.Min(TimeSpan.FromSeconds(4.5).Ticks, total.Ticks / 2));

    /// <summary>Until connections are closed, requests in flight or not.</summary>
    public TimeSpan Requests => total - _afterRequests;

    /// <summary>To send what spans and measurements are left.</summary>
    public TimeSpan Telemetry => _afterRequests * 4 / 9;

    /// <summary>To write what lines of the log are left.</summary>
    public TimeSpan Log => _afterRequests * 2 / 9;
}
