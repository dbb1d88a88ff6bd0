using System.Net;
using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Api;

/// <summary>
/// Asks the service that listens where the configuration says whether it is ready or live: a container's health check, without a
/// shell or a client beside the program.
/// </summary>
internal static class Healthcheck
{
    // More than the 2 seconds in which readiness is answered.
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(2.5);

    /// <exception cref="StartupException">It is not, or nothing answers there.</exception>
    public static async Task RunAsync(IConfiguration configuration, string state)
    {
        var url = new Uri(FindAddress(configuration), $"/health/{state}");
        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { Timeout = s_patience };
        try
        {
            using var answer = await client.GetAsync(url);
            if (answer.StatusCode is not HttpStatusCode.OK)
            {
                throw new StartupException($"not {state}: {url} answers {(int)answer.StatusCode}");
            }
        }
        catch (Exception exception) when (exception is HttpRequestException or TaskCanceledException)
        {
            throw new StartupException($"not {state}: {url}: {exception.Message}", exception);
        }
    }

    // Where ASP.NET Core looks, in its order.
    private static Uri FindAddress(IConfiguration configuration)
    {
        var configured = configuration["urls"] is { Length: > 0 } urls ? urls
            : configuration["http_ports"] is { Length: > 0 } ports ? $"http://*:{ports.Split(';')[0]}"
            : "http://localhost:5000";
        var address = configured.Split(';').Where(url => url.StartsWith("http://", StringComparison.OrdinalIgnoreCase)).Select(BindingAddress.Parse)
            .FirstOrDefault(address => !address.IsUnixPipe)
            ?? throw new StartupException($"nowhere to ask: {configured} has no http address");
        return new UriBuilder("http", IPAddress.TryParse(address.Host, out var host) && !IsAny(host) ? address.Host : "localhost", address.Port).Uri;
    }

    private static bool IsAny(IPAddress host) => host.Equals(IPAddress.Any) || host.Equals(IPAddress.IPv6Any);
}
