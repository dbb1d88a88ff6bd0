using System.Diagnostics;
using System.Globalization;
using System.Net;

namespace CalcomAccounts.Tests.Support.Services;

/// <summary>The program as a process, with the heap limit of a container of 512 MiB.</summary>
internal sealed class MemoryLimitedService : IDisposable
{
    private const int Memory = 512 * 1024 * 1024;

    private readonly ServiceProcess _process;
    private readonly Guid _org;
    private readonly Guid _agent;

    private MemoryLimitedService(ServiceProcess process, string url, Guid org, Guid agent) =>
        (_process, Url, _org, _agent) = (process, url, org, agent);

    public string Url { get; }

    public static async Task<MemoryLimitedService> StartAsync(TestDatabase database)
    {
        var org = Guid.NewGuid();
        var agent = await database.AddAgentAsync(org);
        var process = ServiceProcess.Start([ProcessSettings.AnyPort], new(ProcessSettings.Complete(database))
        {
            // .NET limits the heap to three quarters of the memory of a container.
            ["DOTNET_GCHeapHardLimit"] = (Memory / 4 * 3).ToString("x", CultureInfo.InvariantCulture),
            ["Logging__LogLevel__CalcomAccounts"] = "None",
        });
        var url = await process.WaitForUrlAsync();
        await RawHttp.SendAsync(url, "GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        return new(process, url, org, agent);
    }

    /// <summary>Waits until the connections of the test before are closed, and starts a new measurement of the peak memory.</summary>
    public async Task ResetAsync()
    {
        // Until then they count, and the service refuses new ones.
        await Eventually.HoldsAsync(() => Directory.EnumerateFileSystemEntries($"/proc/{_process.Id}/fd").Count() < 1000, TimeSpan.FromSeconds(10));
        await File.WriteAllTextAsync($"/proc/{_process.Id}/clear_refs", "5");
    }

    public void AssertPeakMemoryWithinLimit()
    {
        var line = File.ReadLines($"/proc/{_process.Id}/status").First(line => line.StartsWith("VmHWM:", StringComparison.Ordinal));
        Assert.InRange(long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * 1024, 0, Memory);
    }

    /// <summary>
    /// Fails unless requests on kept and on new connections and probes are answered within a second for this long.
    /// </summary>
    public async Task AssertAnswersWithinASecondAsync(TimeSpan duration)
    {
        var times = await MeasureAsync(duration);

        // A machine that does other work as well may delay one or the other.
        Assert.InRange(times.Order().ElementAt(times.Count * 95 / 100).TotalSeconds, 0, 1);
        Assert.InRange(times.Max().TotalSeconds, 0, 3);
    }

    public void Dispose() => _process.Dispose();

    private async Task<List<TimeSpan>> MeasureAsync(TimeSpan duration)
    {
        using var keepAlive = Client(Timeout.InfiniteTimeSpan);
        using var newConnections = Client(TimeSpan.Zero);
        var account = TestService.AccountPath(_agent.ToString());
        var times = new List<TimeSpan>();
        for (var started = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(started) < duration; await Task.Delay(50))
        {
            foreach (var (client, path) in new[]
            {
                (keepAlive, account), (newConnections, account), (newConnections, "/health/live"), (newConnections, "/health/ready"),
            })
            {
                using var request = new HttpRequestMessage(HttpMethod.Get, path);
                request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {Tokens.OfOrganization(_org)}");
                var sent = Stopwatch.GetTimestamp();
                using var response = await client.SendAsync(request);
                times.Add(Stopwatch.GetElapsedTime(sent));
                Assert.Equal((path, HttpStatusCode.OK), (path, response.StatusCode));
            }
        }

        return times;
    }

    private HttpClient Client(TimeSpan connectionLifetime) =>
        new(new SocketsHttpHandler { UseProxy = false, PooledConnectionLifetime = connectionLifetime })
        {
            BaseAddress = new Uri(Url),
            Timeout = TimeSpan.FromSeconds(10),
        };
}
