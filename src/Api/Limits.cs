using System.Globalization;
using System.Net.Sockets;
using System.Reflection;
using System.Text;
using CalcomAccounts.Infrastructure;
using Microsoft.AspNetCore.Server.Kestrel.Core;

namespace CalcomAccounts.Api;

/// <summary>What a connection, a request and a stop may take. What is configured wins.</summary>
internal static class Limits
{
    /// <summary>Of the configuration: Kestrel's own limits.</summary>
    public const string Section = "Kestrel:Limits";

    /// <returns>What a lookup may take.</returns>
    /// <exception cref="StartupException">A configured number makes no sense.</exception>
    public static LookupLimits Set(WebApplicationBuilder builder)
    {
        var configuration = builder.Configuration;
        var answerTimeout = ReadSeconds(configuration, "AnswerTimeoutSeconds", 5);
        var shutdown = new ShutdownTimeouts(ReadSeconds(configuration, "ShutdownTimeoutSeconds", 15));

        builder.Services.AddSingleton(shutdown);
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = shutdown.Requests);

        // Leaves a fifth for the answers to be sent in: all that wait may time out at once.
        builder.Services.AddRequestTimeouts(timeouts => timeouts.DefaultPolicy = new()
        {
            Timeout = answerTimeout * 0.8,
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
            kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(5);

            // Places of silent connections are free again before a liveness probe has failed three times.
            kestrel.Limits.KeepAliveTimeout = TimeSpan.FromSeconds(15);
            kestrel.Limits.MinResponseDataRate = new(bytesPerSecond: 32 * 1024, gracePeriod: TimeSpan.FromSeconds(5));
            kestrel.RequestHeaderEncodingSelector = ContentLengthEncoding.Select;
            ConnectionShare.Configure(kestrel);
            configuration.GetSection(Section).Bind(kestrel.Limits);
        });
        return new(
            answerTimeout,
            ReadNumber(configuration, "MaxStatementsInFlight", otherwise: 2, "a number", max: 64),
            ReadNumber(configuration, "MaxQueuedLookups", otherwise: 4096, "a number", max: 1_000_000));
    }

    /// <summary>
    /// Bounds what the kernel buffers of an answer that nobody reads, for each connection that this socket accepts. It would take
    /// 3.75 MB, and <see cref="KestrelServerLimits.MinResponseDataRate"/> counts from when they are full.
    /// </summary>
    public static void Set(Socket listener) => listener.SendBufferSize = 32 * 1024;

    // Kestrel itself asks as late as it listens.
    private static void CheckKestrel(ConfigurationManager configuration)
    {
        try
        {
            configuration.GetSection(Section).Bind(new KestrelServerLimits());
        }
        catch (Exception exception) when (exception is InvalidOperationException or TargetInvocationException)
        {
            throw new StartupException($"{Section} is not valid: {Program.Explain(exception, configuration)}", exception);
        }
    }

    private static TimeSpan ReadSeconds(ConfigurationManager configuration, string key, int otherwise) =>
        TimeSpan.FromSeconds(ReadNumber(configuration, key, otherwise, "a number of seconds", max: 300));

    private static int ReadNumber(ConfigurationManager configuration, string key, int otherwise, string what, int max) =>
        configuration[key] is not { } text ? otherwise
        : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= 1 && number <= max ? number
        : throw new StartupException($"{key} has to be {what} from 1 to {max}");

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
