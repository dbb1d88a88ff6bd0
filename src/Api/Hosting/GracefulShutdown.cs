using System.Diagnostics;
using Microsoft.Extensions.Options;

namespace CalcomAccounts.Api.Hosting;

/// <summary>
/// Graceful shutdown with connection draining: readiness turns at once, but connections are still accepted, and every answer asks its
/// client to connect anew, until nothing has arrived for a moment. By then load balancers send their requests elsewhere.
/// </summary>
internal sealed class GracefulShutdown(IHostApplicationLifetime lifetime, IOptions<HostOptions> host) : IHostedLifecycleService
{
    private static readonly TimeSpan s_quiet = TimeSpan.FromMilliseconds(250);

    private long _lastArrival;
    private long _stopping;

    public Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        Volatile.Write(ref _lastArrival, Stopwatch.GetTimestamp());
        context.Response.OnStarting(CloseWhenStopping, context);
        return next(context);
    }

    public async Task StoppingAsync(CancellationToken cancellationToken)
    {
        // Where no load balancer heeds readiness, requests never cease: two thirds of the time are left for those in flight.
        await WaitUntilQuietAsync(host.Value.ShutdownTimeout / 3, cancellationToken);
    }

    public Task StartingAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StartedAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StoppedAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    private async Task WaitUntilQuietAsync(TimeSpan longest, CancellationToken cancellationToken)
    {
        var began = Stopwatch.GetTimestamp();
        while (!cancellationToken.IsCancellationRequested
            && Stopwatch.GetElapsedTime(began) < longest
            && Stopwatch.GetElapsedTime(Math.Max(began, Volatile.Read(ref _lastArrival))) < s_quiet)
        {
            await Task.Delay(s_quiet / 10, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private Task CloseWhenStopping(object context)
    {
        if (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            // Closing what was opened since would have HTTP/2 clients, which send while GOAWAY is on its way, try again once too often.
            Interlocked.CompareExchange(ref _stopping, Stopwatch.GetTimestamp(), 0);
            ConnectionShare.CloseConnection((HttpContext)context, acceptedBefore: _stopping);
        }

        return Task.CompletedTask;
    }
}

/// <summary>Composes <see cref="GracefulShutdown"/>.</summary>
internal static class GracefulShutdownExtensions
{
    public static IServiceCollection AddGracefulShutdown(this IServiceCollection services) => services
        .AddSingleton<GracefulShutdown>()
        .AddHostedService(provider => provider.GetRequiredService<GracefulShutdown>());

    /// <summary>Has to see every request that counts as an arrival.</summary>
    public static IApplicationBuilder UseGracefulShutdown(this IApplicationBuilder app) =>
        app.Use(app.ApplicationServices.GetRequiredService<GracefulShutdown>().InvokeAsync);
}
