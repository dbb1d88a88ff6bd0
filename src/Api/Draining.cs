using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;
using Microsoft.Extensions.Options;

namespace CalcomAccounts.Api;

/// <summary>
/// Stops without losing a request. Readiness turns at once, but connections are still accepted, and every answer asks its
/// client to connect anew, until nothing has arrived for a moment: by then, who balances the load has looked elsewhere.
/// </summary>
internal sealed partial class Draining(IHostApplicationLifetime lifetime, IOptions<HostOptions> host, ILogger<Draining> logger)
    : IHostedLifecycleService
{
    private static readonly TimeSpan s_quiet = TimeSpan.FromMilliseconds(250);

    private readonly List<Socket> _listeners = [];
    private long _lastArrival;

    public static void Add(IServiceCollection services)
    {
        services.AddSingleton<Draining>();
        services.AddHostedService(provider => provider.GetRequiredService<Draining>());
        services.AddOptions<SocketTransportOptions>().Configure<Draining>((sockets, draining) =>
            sockets.CreateBoundListenSocket = endpoint =>
            {
                var listener = SocketTransportOptions.CreateDefaultBoundListenSocket(endpoint);
                Limits.Set(listener);
                draining._listeners.Add(listener);
                return listener;
            });
    }

    public Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        Volatile.Write(ref _lastArrival, Stopwatch.GetTimestamp());
        context.Response.OnStarting(CloseWhenStopping, context.Response);
        return next(context);
    }

    public async Task StoppingAsync(CancellationToken cancellationToken)
    {
        // Where nobody heeds readiness, requests never cease: two thirds of the time are left for those in flight.
        await WaitUntilQuietAsync(host.Value.ShutdownTimeout / 3, cancellationToken);

        if (OperatingSystem.IsLinux())
        {
            foreach (var listener in _listeners)
            {
                RefuseNewConnections(listener);
            }

            await WaitUntilQuietAsync(s_quiet * 2, cancellationToken);
        }
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

    // Linux resets the connections that stand in a listener's queue when it is closed, with what they have sent. A filter that
    // drops whatever opens a connection lets those that are open be accepted and answered first; the others try again, and
    // find nobody.
    private void RefuseNewConnections(Socket listener)
    {
        const int SolSocket = 1;
        const int SoAttachFilter = 26;

        // struct sock_filter: u16 code, u8 jt, u8 jf, u32 k.
        ulong[] dropSyn =
        [
            Instruction(0x30, 0, 0, 13), // load the byte of the TCP header that holds its flags
            Instruction(0x45, 0, 1, 0x02), // SYN?
            Instruction(0x06, 0, 0, 0), // drop
            Instruction(0x06, 0, 0, uint.MaxValue), // keep
        ];
        var pinned = GCHandle.Alloc(dropSyn, GCHandleType.Pinned);
        try
        {
            // struct sock_fprog: u16 length, padding, pointer.
            ReadOnlySpan<nint> program = [dropSyn.Length, pinned.AddrOfPinnedObject()];
            listener.SetRawSocketOption(SolSocket, SoAttachFilter, MemoryMarshal.AsBytes(program));
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            LogNoFilter(exception);
        }
        finally
        {
            pinned.Free();
        }
    }

    private static ulong Instruction(ushort code, byte ifTrue, byte ifFalse, uint value) =>
        code | ((ulong)ifTrue << 16) | ((ulong)ifFalse << 24) | ((ulong)value << 32);

    private Task CloseWhenStopping(object response)
    {
        if (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            ((HttpResponse)response).Headers.Connection = "close";
        }

        return Task.CompletedTask;
    }

    [LoggerMessage(LogLevel.Warning, "Connections that are about to be accepted may be reset while stopping")]
    private partial void LogNoFilter(Exception exception);
}
