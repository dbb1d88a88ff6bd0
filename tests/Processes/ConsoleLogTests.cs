using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CalcomAccounts.Tests.Processes;

/// <summary>Requests, probes and shutdown never wait for the log, whatever happens to standard output.</summary>
public sealed class ConsoleLogTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Fact]
    public async Task StandardOutputNotRead_ServiceKeepsAnsweringAndStops()
    {
        using var pipe = await Pipe.CreateAsync();

        // Opened for reading too, so that opening does not wait for a reader.
        var dropped = await ServeAsync($"1<>{pipe.Path}", requests: 12_000);

        Assert.InRange(dropped, 1, 12_000);
    }

    [Theory]
    [InlineData(">/dev/full", true)]
    [InlineData(">&-", true)]
    [InlineData("> >(exit)", false)] // .NET's console reports no error when its reader is gone
    public async Task StandardOutputFullOrClosed_ServiceKeepsAnsweringAndStops(string redirection, bool isCounted)
    {
        var dropped = await ServeAsync(redirection, requests: 300);

        Assert.InRange(dropped, isCounted ? 200 : 0, isCounted ? long.MaxValue : 0);
    }

    [Fact]
    public async Task Shutdown_DatabaseClientsCollectorAndLogAllBlocked_StaysWithinTimeout()
    {
        await using var server = await PostgresServer.StartAsync();
        var database = await TestDatabase.OfTablesAsync(server);
        var (org, port) = (Guid.NewGuid(), PostgresServer.FreePort());
        var agent = await database.AddAgentAsync(org);
        using var collector = new TcpListener(IPAddress.Loopback, 0);
        collector.Start();
        using var pipe = await Pipe.CreateAsync();
        using var process = ServiceProcess.StartRedirected($"1<>{pipe.Path}", [$"--urls=http://127.0.0.1:{port}"], new(ProcessSettings.Complete(database))
        {
            ["CalcomAccounts__ShutdownTimeoutSeconds"] = "6",
            ["OTEL_EXPORTER_OTLP_ENDPOINT"] = $"http://{collector.LocalEndpoint}",
        });
        using var client = new HttpClient { BaseAddress = new($"http://127.0.0.1:{port}"), Timeout = TimeSpan.FromSeconds(15) };
        await Eventually.HoldsAsync(async () => await IsReadyAsync(client), TimeSpan.FromSeconds(15));
        await SendRequestsAsync(client, 1000);

        // Connections that are silent, that never complete their request, and that never read their responses; then the database freezes.
        var url = client.BaseAddress.ToString();
        var connections = await Task.WhenAll(Enumerable.Range(0, 300).Select(_ => RawHttp.ConnectAsync(url)));
        var page = Encoding.ASCII.GetBytes(string.Concat(Enumerable.Repeat("GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n", 20)));
        foreach (var connection in connections[..100])
        {
            await connection.GetStream().WriteAsync(page);
            await connections[100 + Array.IndexOf(connections, connection)].GetStream().WriteAsync("GET / HTTP/1.1\r\nX: "u8.ToArray());
        }

        await server.FreezeAsync();
        var inFlight = Enumerable.Range(0, 50).Select(async _ =>
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, TestService.AccountPath(agent.ToString()));
            request.Headers.Authorization = new("Bearer", Tokens.OfOrganization(org));
            await Assert.ThrowsAnyAsync<HttpRequestException>(async () => (await client.SendAsync(request)).EnsureSuccessStatusCode());
        }).ToList();
        await Task.Delay(300);
        var signalled = Stopwatch.GetTimestamp();

        ServiceProcess.Signal("TERM", process.Id);

        var exitCode = await process.WaitForExitAsync();
        var elapsed = Stopwatch.GetElapsedTime(signalled);

        // A frozen server would take a minute to be stopped.
        await server.ThawAsync();
        Assert.Equal((0, ""), (exitCode, process.Errors));

        // The six seconds of the setting, and what sending the signal and noticing the exit take beside other tests.
        Assert.InRange(elapsed.TotalSeconds, 0, 6.5);
        await Task.WhenAll(inFlight);
        Array.ForEach(connections, connection => connection.Dispose());
    }

    /// <summary>Sends requests, probes and SIGTERM, and returns the number of dropped log lines that the metric reports.</summary>
    private async Task<long> ServeAsync(string redirection, int requests)
    {
        var (port, prometheus) = (PostgresServer.FreePort(), PostgresServer.FreePort());
        using var process = ServiceProcess.StartRedirected(redirection, [$"--urls=http://127.0.0.1:{port}"], new(ProcessSettings.Complete(fixture.Tables))
        {
            ["OTEL_EXPORTER_PROMETHEUS_PORT"] = $"{prometheus}",
        });
        using var client = new HttpClient { BaseAddress = new($"http://127.0.0.1:{port}"), Timeout = TimeSpan.FromSeconds(10) };
        await Eventually.HoldsAsync(async () => await IsReadyAsync(client), TimeSpan.FromSeconds(15));

        await SendRequestsAsync(client, requests);
        foreach (var probe in new[] { "live", "ready" })
        {
            Assert.Equal(HttpStatusCode.OK, (await client.GetAsync(new Uri($"/health/{probe}", UriKind.Relative))).StatusCode);
        }

        var sample = (await Prometheus.ScrapeAsync(prometheus)).Split('\n').Single(line => line.StartsWith("calcom_log_dropped_total", StringComparison.Ordinal));
        var signalled = Stopwatch.GetTimestamp();
        ServiceProcess.Signal("TERM", process.Id);
        Assert.Equal(0, await process.WaitForExitAsync());
        Assert.InRange(Stopwatch.GetElapsedTime(signalled).TotalSeconds, 0, 5);
        Assert.Equal("", process.Errors);
        return long.Parse(sample.Split(' ')[1], CultureInfo.InvariantCulture);
    }

    /// <summary>Sends requests without a token, each of which is logged.</summary>
    private static async Task SendRequestsAsync(HttpClient client, int requests)
    {
        var account = new Uri(TestService.AccountPath(Guid.NewGuid().ToString()), UriKind.Relative);
        await Parallel.ForEachAsync(Enumerable.Range(0, requests), new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (_, cancellationToken) =>
            Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync(account, cancellationToken)).StatusCode));
    }

    private static async Task<bool> IsReadyAsync(HttpClient client)
    {
        try
        {
            return (await client.GetAsync(new Uri("/health/ready", UriKind.Relative))).IsSuccessStatusCode;
        }
        catch (HttpRequestException)
        {
            return false;
        }
    }

    /// <summary>A named pipe, deleted when it is disposed.</summary>
    private sealed record Pipe(string Path) : IDisposable
    {
        public static async Task<Pipe> CreateAsync()
        {
            var pipe = new Pipe(System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"{Guid.NewGuid()}.pipe"));
            using var make = Process.Start("mkfifo", [pipe.Path]);
            await make.WaitForExitAsync();
            return pipe;
        }

        public void Dispose() => File.Delete(Path);
    }
}
