using System.Diagnostics;

namespace CalcomAccounts.Api;

/// <summary>
/// Stops without losing a request. Readiness turns at once, but connections are still accepted, and every answer asks its
/// client to connect anew, until nothing has arrived for a moment: by then, who balances the load has looked elsewhere.
/// </summary>
internal sealed class Draining(IHostApplicationLifetime lifetime) : IHostedLifecycleService
{
    private static readonly TimeSpan s_quiet = TimeSpan.FromMilliseconds(250);

    // Where nobody heeds readiness, requests would never cease.
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(5);

    private long _lastArrival;

    public Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        Volatile.Write(ref _lastArrival, Stopwatch.GetTimestamp());
        context.Response.OnStarting(CloseWhenStopping, context.Response);
        return next(context);
    }

    public async Task StoppingAsync(CancellationToken cancellationToken)
    {
        var began = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(began) < s_longest
            && Stopwatch.GetElapsedTime(Math.Max(began, Volatile.Read(ref _lastArrival))) < s_quiet)
        {
            await Task.Delay(s_quiet / 10, cancellationToken);
        }
    }

    public Task StartingAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StartedAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StoppedAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    private Task CloseWhenStopping(object response)
    {
        if (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            ((HttpResponse)response).Headers.Connection = "close";
        }

        return Task.CompletedTask;
    }
}
