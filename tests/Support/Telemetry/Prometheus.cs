namespace CalcomAccounts.Tests.Support.Telemetry;

/// <summary>The service's metrics as Prometheus reads them.</summary>
internal static class Prometheus
{
    public static async Task<string> ScrapeAsync(int port)
    {
        using var client = new HttpClient();
        return await client.GetStringAsync(new Uri($"http://localhost:{port}/metrics"));
    }
}
