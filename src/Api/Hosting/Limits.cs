using System.Reflection;
using System.Text;
using CalcomAccounts.Infrastructure;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;

namespace CalcomAccounts.Api.Hosting;

/// <summary>What a connection, a request and a stop may take. What is configured wins.</summary>
internal static class Limits
{
    /// <summary>Of the configuration: Kestrel's own limits.</summary>
    public const string Section = "Kestrel:Limits";

    /// <returns>How lookups are made.</returns>
    /// <exception cref="StartupException"><c>Kestrel:Limits</c> makes no sense.</exception>
    public static LookupOptions AddLimits(this WebApplicationBuilder builder, CalcomAccountsOptions options)
    {
        var configuration = builder.Configuration;
        var requestTimeout = TimeSpan.FromSeconds(options.RequestTimeoutSeconds);
        var shutdown = new ShutdownTimeouts(TimeSpan.FromSeconds(options.ShutdownTimeoutSeconds));

        builder.Services.AddSingleton(shutdown);
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = shutdown.Requests);

        // Leaves a fifth for the answers to be sent in: all that wait may time out at once.
        builder.Services.AddRequestTimeouts(timeouts => timeouts.DefaultPolicy = new()
        {
            Timeout = requestTimeout * 0.8,
            TimeoutStatusCode = StatusCodes.Status500InternalServerError,
        });

        CheckKestrel(configuration);
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;

            // What 512 MiB have room for 5,000 times.
            kestrel.Limits.MaxConcurrentConnections = 5000;
            kestrel.Limits.MaxRequestHeadersTotalSize = 32 * 1024;
            kestrel.Limits.MaxRequestBufferSize = 64 * 1024;
            kestrel.Limits.MaxRequestBodySize = 64 * 1024;
            kestrel.Limits.MaxResponseBufferSize = 16 * 1024;

            // Of HTTP/2 these are what MaxRequestBufferSize is of HTTP/1.1.
            kestrel.Limits.Http2.InitialConnectionWindowSize = 64 * 1024;
            kestrel.Limits.Http2.InitialStreamWindowSize = 64 * 1024;
            kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(5);

            // Places of silent connections are free again before a liveness probe has failed three times.
            kestrel.Limits.KeepAliveTimeout = TimeSpan.FromSeconds(15);
            kestrel.Limits.MinResponseDataRate = new(bytesPerSecond: 32 * 1024, gracePeriod: TimeSpan.FromSeconds(5));
            kestrel.RequestHeaderEncodingSelector = ContentLengthEncoding.Select;
            kestrel.UseConnectionShare();
            configuration.GetSection(Section).Bind(kestrel.Limits);
        });

        // Bounds what the kernel buffers of an answer that nobody reads, for each connection that is accepted. It would take 3.75 MB, and
        // the minimum data rate counts from when they are full.
        builder.Services.Configure<SocketTransportOptions>(sockets => sockets.CreateBoundListenSocket = endpoint =>
        {
            var listener = SocketTransportOptions.CreateDefaultBoundListenSocket(endpoint);
            listener.SendBufferSize = 32 * 1024;
            return listener;
        });
        return new(requestTimeout, options.MaxConcurrentStatements, options.MaxQueuedLookups, options.Distributed);
    }

    // Kestrel itself asks as late as it listens.
    private static void CheckKestrel(ConfigurationManager configuration)
    {
        try
        {
            configuration.GetSection(Section).Bind(new KestrelServerLimits());
        }
        catch (Exception exception) when (exception is InvalidOperationException or TargetInvocationException)
        {
            throw new StartupException($"{Section} is not valid: {ServiceHost.Explain(exception, configuration)}", exception);
        }
    }

    // Kestrel would read a Content-Length with a sign, which another server before it may not take for a number.
    private sealed class ContentLengthEncoding : ASCIIEncoding
    {
        private static readonly ContentLengthEncoding s_digits = new();

        public static ContentLengthEncoding? Select(string header) => header is "Content-Length" ? s_digits : null;

        public override int GetChars(ReadOnlySpan<byte> bytes, Span<char> chars)
        {
            if (bytes.Length <= chars.Length && !bytes.ContainsAnyExceptInRange((byte)'0', (byte)'9'))
            {
                return base.GetChars(bytes, chars);
            }

            // Is no number, so that Kestrel answers 400.
            chars[0] = 'x';
            return 1;
        }
    }
}
