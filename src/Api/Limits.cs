using System.Globalization;
using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Api;

/// <summary>What a connection, a request and a stop may take. What is configured wins.</summary>
internal static class Limits
{
    /// <returns>What a request may take.</returns>
    /// <exception cref="StartupException">A configured time makes no sense.</exception>
    public static TimeSpan Set(WebApplicationBuilder builder)
    {
        var configuration = builder.Configuration;
        var answerTimeout = ReadSeconds(configuration, "AnswerTimeoutSeconds", 5);
        var shutdownTimeout = ReadSeconds(configuration, "ShutdownTimeoutSeconds", 15);

        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = shutdownTimeout);

        // Leaves a tenth for the answer to be sent in.
        builder.Services.AddRequestTimeouts(timeouts => timeouts.DefaultPolicy = new()
        {
            Timeout = answerTimeout * 0.9,
            TimeoutStatusCode = StatusCodes.Status500InternalServerError,
        });

        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;

            // A token of a megabyte is refused as any other is, with 401. A buffer grows that far only while such a head arrives.
            kestrel.Limits.MaxRequestHeadersTotalSize = 1536 * 1024;
            kestrel.Limits.MaxRequestBufferSize = 1536 * 1024;
            kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(5);
            kestrel.Limits.MaxConcurrentConnections = 5000;
            configuration.GetSection("Kestrel:Limits").Bind(kestrel.Limits);
        });
        return answerTimeout;
    }

    private static TimeSpan ReadSeconds(ConfigurationManager configuration, string key, int otherwise) =>
        configuration[key] is not { } text ? TimeSpan.FromSeconds(otherwise)
        : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var seconds) && seconds is >= 1 and <= 300
            ? TimeSpan.FromSeconds(seconds)
        : throw new StartupException($"{key} has to be a number of seconds from 1 to 300");
}
