using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using CalcomAccounts.Api.Observability;

namespace CalcomAccounts.Tests.Processes;

/// <summary>The log never keeps a request, a probe or a stop waiting, whatever standard output does.</summary>
[Collection(AfterAllOthers.Name)]
public sealed class ConsoleLogTests(ServiceFixture fixture)
{
    private const string Line = "a line of the log that is about as long as one of a request, which has some 400 bytes where it is JSON\n";

    private static readonly TimeSpan s_longFlush = TimeSpan.FromSeconds(10);

    [Fact]
    public async Task StandardOutput_NobodyReads_RequestsProbesAndStopGoOn()
    {
        using var pipe = await Pipe.CreateAsync();

        // Opened for reading too, so that to open it does not wait for a reader.
        var dropped = await ServeAsync($"1<>{pipe.Path}", requests: 12_000);

        Assert.InRange(dropped, 1, 12_000);
    }

    [Theory]
    [InlineData(">/dev/full", true)]
    [InlineData(">&-", true)]
    [InlineData("> >(exit)", false)] // .NET's console tells nobody that its reader is gone
    public async Task StandardOutput_FullOrClosed_RequestsProbesAndStopGoOn(string redirection, bool isCounted)
    {
        var dropped = await ServeAsync(redirection, requests: 300);

        Assert.InRange(dropped, isCounted ? 200 : 0, isCounted ? long.MaxValue : 0);
    }

    [Fact]
    public async Task Stop_EverythingStuckAtOnce_FitsIntoItsTimeout()
    {
        await using var server = await PostgresServer.StartAsync();
        var database = await TestDatabase.OfTablesAsync(server);
        var (org, port) = (Guid.NewGuid(), PostgresServer.FreePort());
        var agent = await database.AddAgentAsync(org);
        using var collector = new TcpListener(IPAddress.Loopback, 0);
        collector.Start();
        using var pipe = await Pipe.CreateAsync();
        using var process = ServiceProcess.StartRedirected($"1<>{pipe.Path}", [$"--urls=http://127.0.0.1:{port}"], new(Settings(database))
        {
            ["CalcomAccounts__ShutdownTimeoutSeconds"] = "6",
            ["OTEL_EXPORTER_OTLP_ENDPOINT"] = $"http://{collector.LocalEndpoint}",
        });
        using var client = new HttpClient { BaseAddress = new($"http://127.0.0.1:{port}"), Timeout = TimeSpan.FromSeconds(15) };
        await Eventually.HoldsAsync(async () => await IsAnsweredAsync(client), TimeSpan.FromSeconds(15));
        await AskAsync(client, 1000);

        // Connections that ask nothing, that never end their request, and that never read their answers; then the database freezes.
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

        Assert.Equal(0, await process.WaitForExitAsync());
        Assert.InRange(Stopwatch.GetElapsedTime(signalled).TotalSeconds, 0, 6);
        Assert.Equal("", process.Errors);
        await Task.WhenAll(inFlight);
        Array.ForEach(connections, connection => connection.Dispose());
        await server.ThawAsync();
    }

    [Fact]
    public void Writer_OutputStuck_DropsWhatDoesNotFitAndTellsOfItInOneLineAfterwards()
    {
        using var output = new StuckStream();
        using var writer = Writer(output, s_longFlush);
        writer.Add("first\n");
        output.WaitUntilStuck();
        var fitting = BoundedLogWriter.Capacity / Line.Length;

        for (var i = 0; i < fitting + 123; i++)
        {
            writer.Add(Line);
        }

        Assert.Equal(123, writer.Dropped);
        output.Release();
        writer.Dispose();
        var lines = output.Text.Split('\n');
        Assert.Equal(("first", "123 dropped", ""), (lines[0], lines[^2], lines[^1]));
        Assert.Equal(fitting, lines.Count(line => line.Length == Line.Length - 1));
        Assert.Equal(fitting + 3, lines.Length);
        Assert.Equal(123, writer.Dropped);
    }

    [Fact]
    public void Writer_OutputFails_CountsItsLinesAndTellsOfThemWithTheNextThatIsTaken()
    {
        using var output = new StuckStream { Fails = true };
        using var writer = Writer(output, s_longFlush);
        output.Release();
        writer.Add("one\n");
        writer.Add("two\n");
        Assert.True(SpinWait.SpinUntil(() => writer.Dropped is 2, s_longFlush));
        output.Fails = false;

        writer.Add("three\n");
        writer.Dispose();

        Assert.Equal("three\n2 dropped\n", output.Text);
    }

    [Fact]
    public void Writer_Disposed_WritesWhatIsPendingInOnePiece()
    {
        using var output = new StuckStream();
        using var writer = Writer(output, s_longFlush);
        writer.Add("first\n");
        output.WaitUntilStuck();
        writer.Add("Größe 😀\n");
        writer.Add("last\n");

        output.Release();
        writer.Dispose();

        Assert.Equal(("first\nGröße 😀\nlast\n", 2), (output.Text, output.Writes));
    }

    [Fact]
    public void Writer_DisposedWhileOutputStuck_DoesNotWaitForIt()
    {
        using var output = new StuckStream();
        using var writer = Writer(output, TimeSpan.FromMilliseconds(200));
        writer.Add("first\n");
        output.WaitUntilStuck();
        var started = Stopwatch.GetTimestamp();

        writer.Dispose();

        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0.19, 2);
        output.Release();
    }

    private static BoundedLogWriter Writer(Stream output, TimeSpan flushTimeout) =>
        new(output, dropped => string.Create(CultureInfo.InvariantCulture, $"{dropped} dropped\n"), flushTimeout);

    /// <summary>Requests, each within 3 seconds, then probes, then SIGTERM; returns what the metric of dropped lines says before that.</summary>
    private async Task<long> ServeAsync(string redirection, int requests)
    {
        var (port, prometheus) = (PostgresServer.FreePort(), PostgresServer.FreePort());
        using var process = ServiceProcess.StartRedirected(redirection, [$"--urls=http://127.0.0.1:{port}"], new(Settings(fixture.Tables))
        {
            ["OTEL_EXPORTER_PROMETHEUS_PORT"] = $"{prometheus}",
        });
        using var client = new HttpClient { BaseAddress = new($"http://127.0.0.1:{port}"), Timeout = TimeSpan.FromSeconds(3) };
        await Eventually.HoldsAsync(async () => await IsAnsweredAsync(client), TimeSpan.FromSeconds(15));

        await AskAsync(client, requests);
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

    private static Dictionary<string, string> Settings(TestDatabase database) => new()
    {
        ["ConnectionStrings__CalcomAccounts"] = database.ServiceConnectionString,
        ["Authentication__Schemes__Bearer__ValidIssuer"] = Tokens.Issuer,
        ["Authentication__Schemes__Bearer__ValidAudience"] = Tokens.Audience,
        ["Authentication__Schemes__Bearer__SigningKeys__0__Value"] = Convert.ToBase64String(Tokens.Key),
    };

    /// <summary>Requests without a token, each a line of the log.</summary>
    private static async Task AskAsync(HttpClient client, int requests)
    {
        var account = new Uri(TestService.AccountPath(Guid.NewGuid().ToString()), UriKind.Relative);
        await Parallel.ForEachAsync(Enumerable.Range(0, requests), new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (_, cancellationToken) =>
            Assert.Equal(HttpStatusCode.Unauthorized, (await client.GetAsync(account, cancellationToken)).StatusCode));
    }

    private static async Task<bool> IsAnsweredAsync(HttpClient client)
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

    /// <summary>A named pipe, gone when it is disposed.</summary>
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

    /// <summary>Takes nothing until it is released.</summary>
    private sealed class StuckStream : MemoryStream
    {
        private readonly ManualResetEventSlim _isStuck = new();
        private readonly ManualResetEventSlim _isReleased = new();

        public bool Fails { get; set; }

        public int Writes { get; private set; }

        public string Text => Encoding.UTF8.GetString(ToArray());

        public void WaitUntilStuck() => Assert.True(_isStuck.Wait(s_longFlush));

        public void Release() => _isReleased.Set();

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            _isStuck.Set();
            _isReleased.Wait();
            Writes++;
            if (Fails)
            {
                throw new IOException("No space left on device");
            }

            base.Write(buffer);
        }
    }
}
