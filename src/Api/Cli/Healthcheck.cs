using System.Net;
using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Api.Cli;

/// <summary>
/// Asks the service that listens where the configuration says whether it is ready or live: a container's health check, without a
/// shell or a client beside the program.
/// </summary>
internal static class Healthcheck
{
    // More than the 2 seconds in which readiness is answered.
    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(2.5);

    /// <exception cref="StartupException">It is not, or nothing answers there.</exception>
    public static async Task RunAsync(IConfiguration configuration, string state)
    {
        var url = new Uri(FindAddress(configuration), $"/health/{state}");

        // Who answers is this very service, whose certificate need not be for the name by which it is asked here.
        using var handler = new HttpClientHandler { UseProxy = false, ServerCertificateCustomValidationCallback = HttpClientHandler.DangerousAcceptAnyServerCertificateValidator };
        using var client = new HttpClient(handler) { Timeout = s_timeout };
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

    private static Uri FindAddress(IConfiguration configuration)
    {
        var configured = ReadAddresses(configuration);
        try
        {
            var addresses = configured.Select(BindingAddress.Parse).Where(address => !address.IsUnixPipe).ToList();
            var address = addresses.Find(address => address.Scheme is "http") ?? addresses.FirstOrDefault() ?? throw new FormatException("None has a port.");
            return new UriBuilder(address.Scheme, IPAddress.TryParse(address.Host, out var host) && !IsAny(host) ? address.Host : "localhost", address.Port).Uri;
        }
        catch (Exception exception) when (exception is FormatException or ArgumentException)
        {
            throw new StartupException($"nowhere to ask: {string.Join(';', configured)} has no address with a port", exception);
        }
    }

    // Where ASP.NET Core looks, in its order.
    private static List<string> ReadAddresses(IConfiguration configuration)
    {
        List<string>[] places =
        [
            [.. configuration.GetSection("Kestrel:Endpoints").GetChildren().Select(endpoint => endpoint["Url"]).OfType<string>()],
            Split("urls"),
            [.. Split("http_ports").Select(port => $"http://*:{port}"), .. Split("https_ports").Select(port => $"https://*:{port}")],
        ];
        return Array.Find(places, addresses => addresses is not []) ?? ["http://localhost:5000"];

        List<string> Split(string key) => [.. (configuration[key] ?? "").Split(';', StringSplitOptions.RemoveEmptyEntries)];
    }

    private static bool IsAny(IPAddress host) => host.Equals(IPAddress.Any) || host.Equals(IPAddress.IPv6Any);
}
