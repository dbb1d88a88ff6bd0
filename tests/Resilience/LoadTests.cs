using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CalcomAccounts.Tests.Resilience;

/// <summary>The program as a process under load.</summary>
[Collection(AfterAllOthers.Name)]
public sealed class LoadTests(ServiceFixture fixture)
{
    private const int Connections = 256;

    /// <summary>How long the database is restarted under load; longer in CI.</summary>
    private static readonly TimeSpan s_duration = TimeSpan.FromSeconds(
        double.Parse(Environment.GetEnvironmentVariable("CALCOM_ACCOUNTS_LOAD_SECONDS") ?? "2", CultureInfo.InvariantCulture));

    private readonly Guid _org = Guid.NewGuid();

    [Fact]
    public async Task DatabaseRestart_UnderLoad_RecoversWithinTwoSeconds()
    {
        await using var server = await PostgresServer.StartAsync();
        var database = await TestDatabase.OfTablesAsync(server);
        var agent = await database.AddAgentAsync(_org);
        using var process = await StartAsync(database.ServiceConnectionString);
        using var client = Client(process.Url);
        long memory = 0;
        long lastGood = 0;
        var statuses = await Load.SendDuringAsync(
            Connections,
            async _ =>
            {
                var status = await GetAsync(client, agent);
                if (status is 200)
                {
                    Volatile.Write(ref lastGood, Stopwatch.GetTimestamp());
                }

                return status;
            },
            async () =>
            {
                await Task.Delay(s_duration / 2);
                memory = process.Process.ResidentBytes;
                await server.StopAsync();
                await Task.Delay(500);
                await server.StartAgainAsync();
                var back = Stopwatch.GetTimestamp();
                while (Volatile.Read(ref lastGood) < back)
                {
                    Assert.InRange(Stopwatch.GetElapsedTime(back).TotalSeconds, 0, 2);
                    await Task.Delay(20);
                }

                await Task.Delay(s_duration / 2);
            },
            pause: TimeSpan.Zero);
        Assert.Equal([200, 500], statuses.Distinct().Order());
        Assert.InRange(process.Process.ResidentBytes, 0, memory * 1.5);
        Assert.Equal(200, (int)(await client.GetAsync(new Uri("/health/ready", UriKind.Relative))).StatusCode);
    }

    /// <summary>As the user of the image, behind a load balancer that stops sending requests once the service is not ready.</summary>
    [Fact]
    public async Task Shutdown_UnderLoad_AnswersEveryRequestThatReachedTheService()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        await fixture.Server.OpenToAllUsersAsync();
        using var process = await StartAsync(ServiceProcess.StartUnprivileged, fixture.Tables.ServiceConnectionString, ("CalcomAccounts__ShutdownTimeoutSeconds", "6"));
        using var client = Client(process.Url);
        Assert.Equal(200, await GetAsync(client, agent));
        Assert.True(!Environment.IsPrivilegedProcess || (await File.ReadAllTextAsync($"/proc/{process.Process.Id}/status")).Contains("\nUid:\t1654\t", StringComparison.Ordinal));
        var answered = 0;
        var failures = new ConcurrentQueue<string>();
        using var loadEnded = new CancellationTokenSource();
        var load = Enumerable.Range(0, 32).Select(index => Task.Run(async () =>
        {
            // Half of the clients keep their connections, half open a new one for each request.
            while (!loadEnded.IsCancellationRequested)
            {
                try
                {
                    var status = index % 2 is 0 ? await GetAsync(client, agent) : await GetOnNewConnectionAsync(process.Url, agent);
                    Assert.Equal(200, status);
                    Interlocked.Increment(ref answered);
                }
                catch (Exception exception)
                {
                    failures.Enqueue(exception.ToString());
                }
            }
        })).ToList();
        await Task.Delay(1000);

        ServiceProcess.Signal("TERM", process.Process.Id);

        var signalled = Stopwatch.GetTimestamp();
        while (await HealthAsync(process.Url, "ready") is not HttpStatusCode.ServiceUnavailable)
        {
            Assert.InRange(Stopwatch.GetElapsedTime(signalled).TotalSeconds, 0, 1);
        }

        Assert.Equal(HttpStatusCode.OK, await HealthAsync(process.Url, "live"));
        loadEnded.CancelAfter(TimeSpan.FromMilliseconds(300));
        Assert.Equal(0, await process.Process.WaitForExitAsync());
        Assert.InRange(Stopwatch.GetElapsedTime(signalled).TotalSeconds, 0, 6);
        await Task.WhenAll(load);
        Assert.Empty(failures);
        Assert.InRange(answered, 100, int.MaxValue);
    }

    [Fact]
    public async Task SlowClients_DoNotSlowOthersAndGet408()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        using var process = await StartAsync(fixture.Tables.ServiceConnectionString, ("Kestrel__Limits__RequestHeadersTimeout", "00:00:01"));
        using var client = Client(process.Url);
        await MedianAsync(client, agent);
        var before = await MedianAsync(client, agent);

        var slow = await Task.WhenAll(Enumerable.Range(0, 200).Select(_ => RawHttp.ConnectAsync(process.Url)));
        using var cancellation = new CancellationTokenSource();
        var slowRequests = Task.WhenAll(slow.Select(connection => SendSlowlyAsync(connection, cancellation.Token)));
        var meanwhile = await MedianAsync(client, agent);

        // Within the header timeout and a margin.
        Assert.All(await slowRequests.WaitAsync(TimeSpan.FromSeconds(10)), answer => Assert.StartsWith("HTTP/1.1 408", answer, StringComparison.Ordinal));
        Assert.InRange(meanwhile.TotalMilliseconds, 0, (before.TotalMilliseconds * 3) + 1);
        foreach (var connection in slow)
        {
            connection.Dispose();
        }
    }

    private static async Task<string> SendSlowlyAsync(TcpClient connection, CancellationToken cancellationToken)
    {
        var stream = connection.GetStream();
        var received = new byte[1024];
        var answer = stream.ReadAsync(received, cancellationToken).AsTask();
        await stream.WriteAsync("GET / HTTP/1.1\r\nX: "u8.ToArray(), cancellationToken);
        while (!answer.IsCompleted)
        {
            await stream.WriteAsync("x"u8.ToArray(), cancellationToken);
            await Task.WhenAny(answer, Task.Delay(100, cancellationToken));
        }

        return Encoding.ASCII.GetString(received, 0, await answer);
    }

    private async Task<TimeSpan> MedianAsync(HttpClient client, Guid agent)
    {
        var times = new List<TimeSpan>();
        for (var i = 0; i < 100; i++)
        {
            var started = Stopwatch.GetTimestamp();
            Assert.Equal(200, await GetAsync(client, agent));
            times.Add(Stopwatch.GetElapsedTime(started));
        }

        return times.Order().ElementAt(times.Count / 2);
    }

    private async Task<int> GetAsync(HttpClient client, Guid agent)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, TestService.AccountPath(agent.ToString()));
        request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {Tokens.OfOrganization(_org)}");
        using var response = await client.SendAsync(request);
        return (int)response.StatusCode;
    }

    private async Task<int> GetOnNewConnectionAsync(string url, Guid agent) => (await RawHttp.SendAsync(
        url,
        $"GET {TestService.AccountPath(agent.ToString())} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {Tokens.OfOrganization(_org)}\r\n\r\n")).Status;

    private static async Task<HttpStatusCode> HealthAsync(string url, string path)
    {
        using var client = Client(url);
        return (await client.GetAsync(new Uri($"/health/{path}", UriKind.Relative))).StatusCode;
    }

    private static HttpClient Client(string url) =>
        new(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = new Uri(url) };

    private static Task<Started> StartAsync(string connectionString, params (string Key, string Value)[] settings) =>
        StartAsync(ServiceProcess.Start, connectionString, settings);

    private static async Task<Started> StartAsync(
        Func<string[], Dictionary<string, string>, ServiceProcess> start, string connectionString, params (string Key, string Value)[] settings)
    {
        var environment = ProcessSettings.Complete(connectionString);
        environment["Logging__LogLevel__CalcomAccounts"] = "None";
        foreach (var (key, value) in settings)
        {
            environment[key] = value;
        }

        var process = start([ProcessSettings.AnyPort], environment);
        return new(process, await process.WaitForUrlAsync());
    }

    private sealed record Started(ServiceProcess Process, string Url) : IDisposable
    {
        public void Dispose() => Process.Dispose();
    }
}
