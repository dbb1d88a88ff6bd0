using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Resilience;

/// <summary>Thousands of connections without a token, on the program as a process with the heap that a container of 512 MiB gives it.</summary>
[Collection(AfterAllOthers.Name)]
public sealed class ConnectionLimitTests(ServiceFixture fixture)
{
    private const int Connections = 4900;
    private const int Memory = 512 * 1024 * 1024;

    private readonly Guid _org = Guid.NewGuid();

    // What each connection sends, piece by piece, every tenth of a second.
    private static readonly Dictionary<string, string[]> s_attacks = new()
    {
        ["unfinished heads of 32 KB"] =
            ["GET / HTTP/1.1\r\nHost: x\r\n", .. Enumerable.Repeat($"Authorization: {new string('x', 1001)}\r\n", 31)],
        ["unfinished heads that grow"] = ["GET / HTTP/1.1\r\nHost: x\r\nX: ", .. Enumerable.Repeat(new string('x', 64 * 1024), 20)],
        ["pipelined assets"] = [Repeat("GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n", 20)],
        ["pipelined unknown routes"] = [Repeat("GET /unknown HTTP/1.1\r\nHost: x\r\n\r\n", 200)],
        ["bodies that never end"] =
        [
            $"POST {TestService.AccountsPath} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            .. Enumerable.Repeat($"1000\r\n{new string('x', 4096)}\r\n", 100),
        ],
    };

    public static TheoryData<string> Attacks() => [.. s_attacks.Keys];

    [Theory]
    [MemberData(nameof(Attacks))]
    public async Task ThousandsOfHostileConnections_LeaveCallersAndProbesAnsweredWithinASecond(string attack)
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        using var process = await StartAsync();
        using var connections = new HostileConnections(process.Url, Connections, s_attacks[attack], renew: true);

        AssertAnsweredWithinASecond(await AskThroughAsync(process.Url, agent, TimeSpan.FromSeconds(4)));
        Assert.InRange(PeakResidentBytes(process.Process), 0, Memory);
        connections.ThrowIfFailed();
    }

    [Fact]
    public async Task SilentConnectionsAndSlowReaders_AreClosedWithinTwentySeconds()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        using var process = await StartAsync();
        var started = Stopwatch.GetTimestamp();
        using var slow = await RawHttp.ConnectAsync(process.Url);
        await slow.GetStream().WriteAsync(Encoding.ASCII.GetBytes(s_attacks["pipelined assets"][0]));
        using var silent = new HostileConnections(process.Url, Connections / 2, [], renew: false);
        using var idle = new HostileConnections(process.Url, Connections / 2, ["GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"], renew: false);
        AssertAnsweredWithinASecond(await AskThroughAsync(process.Url, agent, TimeSpan.FromSeconds(2)));

        // With these no place is left.
        using var last = new HostileConnections(process.Url, 200, [], renew: false);
        await Task.WhenAll(silent.OpenedAsync(), idle.OpenedAsync(), last.OpenedAsync());
        await Task.Delay(200);
        Assert.Equal(0, (await RawHttp.SendAsync(process.Url, "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).Status);

        while ((await RawHttp.SendAsync(process.Url, "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).Status is 0)
        {
            Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 20);
            await Task.Delay(100);
        }

        // Reset before the end of its first answer.
        using var received = new MemoryStream();
        await Assert.ThrowsAnyAsync<IOException>(() => slow.GetStream().CopyToAsync(received));
        Assert.InRange(received.Length, 1, 1024 * 1024);
        Assert.InRange(PeakResidentBytes(process.Process), 0, Memory);
    }

    [Fact]
    public async Task FiveHundredLongHeads_AreAsManyAsThereMayBe()
    {
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString);
        var head = $"GET / HTTP/1.1\r\nHost: x\r\nX: {new string('x', 9 * 1024)}\r\n";
        using var heads = new HostileConnections(service.Url, 500, [head], renew: false);
        await heads.OpenedAsync();
        await Task.Delay(500);

        Assert.Equal(0, (await RawHttp.SendAsync(service.Url, $"{head}\r\n")).Status);
        Assert.Equal(404, (await service.SendAsync("GET", "/unknown")).Status);

        heads.Dispose();
        await Task.Delay(500);
        Assert.Equal(404, (await RawHttp.SendAsync(service.Url, $"{head}\r\n")).Status);
    }

    [Fact]
    public async Task AValidTokenOfThirtyKilobytes_IsAccepted_AndItsConnectionIsClosed()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var token = Tokens.With(("org_id", _org.ToString()), ("x", new string('x', 22 * 1024)));

        var answer = await fixture.Service.GetAccountAsync(agent, token);

        Assert.Equal((200, "close"), (answer.Status, answer.Header("Connection")));
    }

    [Fact]
    public async Task PipelinedRequests_AreAllAnswered()
    {
        using var connection = await RawHttp.ConnectAsync(fixture.Service.Url);
        const string Get = "GET /health/live HTTP/1.1\r\nHost: x\r\n";
        await connection.GetStream().WriteAsync(Encoding.ASCII.GetBytes($"{Repeat($"{Get}\r\n", 200)}{Get}Connection: close\r\n\r\n"));

        var answers = await new StreamReader(connection.GetStream(), Encoding.ASCII).ReadToEndAsync();

        Assert.Equal(201, answers.Split("HTTP/1.1 200 OK").Length - 1);
    }

    [Fact]
    public async Task Assets_MayBeCached_AndNothingElseOfThePage()
    {
        var asset = await fixture.Service.SendAsync("GET", "/swagger/swagger-ui-bundle.js");

        Assert.Equal((200, "public, max-age=3600"), (asset.Status, asset.Header("Cache-Control")));
        var again = await fixture.Service.SendAsync(
            "GET", "/swagger/swagger-ui-bundle.js", configure: request => request.Headers.TryAddWithoutValidation("If-None-Match", asset.Header("ETag")));
        Assert.Equal((304, "public, max-age=3600"), (again.Status, again.Header("Cache-Control")));
        foreach (var path in new[] { "/swagger", "/swagger/index.html", "/swagger/v1/swagger.json", "/swagger/unknown", "/health/live" })
        {
            Assert.Equal((path, "no-store"), (path, (await fixture.Service.SendAsync("GET", path)).Header("Cache-Control")));
        }
    }

    [Fact]
    public async Task AClientThatResetsWhileItsBodyIsRead_Is499AndNoError()
    {
        using var log = new CapturedLog(LogLevel.Information);
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString, configure: builder => builder.Logging.AddProvider(log)
                .AddFilter<CapturedLog>(null, LogLevel.Error).AddFilter<CapturedLog>("CalcomAccounts.Api.Http.RequestLogging", LogLevel.Information));
        for (var i = 1; i <= 10; i++)
        {
            using var connection = await RawHttp.ConnectAsync(service.Url);
            await connection.GetStream().WriteAsync(Encoding.ASCII.GetBytes(PostHead("Content-Length: 1000") + "{"));
            await Task.Delay(i * 10);

            // To dispose of the client would send a FIN first.
            connection.Client.Close(timeout: 0);
        }

        // One that is reset at once may never become a request.
        await Task.Delay(500);
        Assert.NotEmpty(log.Lines);
        Assert.All(log.Lines, line => Assert.StartsWith("499 client_closed_request ", line, StringComparison.Ordinal));
        Assert.All(log.Lines, line => Assert.DoesNotContain("Exception", line, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("FFFFFFFFFFFFFFFFF\r\n")]
    [InlineData("80000000\r\n")]
    [InlineData("-1\r\n")]
    [InlineData("x\r\n")]
    [InlineData("1\r\n{x")]
    public async Task AMalformedChunk_IsAnInvalidRequest(string chunk)
    {
        var answer = await RawHttp.SendAsync(fixture.Service.Url, PostHead("Transfer-Encoding: chunked") + chunk + new string('x', 32));

        Assert.Equal(400, answer.Status);
        Assert.Contains("INVALID_REQUEST", answer.Body, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("Content-Length: 54", 200)]
    [InlineData("content-length: 054", 200)]
    [InlineData("Content-Length: +54", 400)]
    [InlineData("content-length: +54", 400)]
    [InlineData("Content-Length: -54", 400)]
    [InlineData("Content-Length: 5 4", 400)]
    [InlineData("Content-Length: 54, 54", 400)]
    [InlineData("Content-Length: 99999999999999999999", 400)]
    [InlineData("Content-Length: 999999999999999999999999999999", 400)]
    [InlineData("Content-Length: ", 400)]
    public async Task AContentLength_IsDigitsAlone(string header, int status) => Assert.Equal(
        status, (await RawHttp.SendAsync(fixture.Service.Url, PostHead($"Connection: close\r\n{header}") + $$"""{"agent_ids":["{{Guid.Empty}}"]}""")).Status);

    private string PostHead(string header) =>
        $"POST {TestService.AccountsPath} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {Tokens.OfOrganization(_org)}\r\n{header}\r\n\r\n";

    private static string Repeat(string text, int times) => string.Concat(Enumerable.Repeat(text, times));

    // A machine that does other work as well may hold up one or the other.
    private static void AssertAnsweredWithinASecond(List<TimeSpan> answers)
    {
        Assert.InRange(answers.Order().ElementAt(answers.Count * 95 / 100).TotalSeconds, 0, 1);
        Assert.InRange(answers.Max().TotalSeconds, 0, 3);
    }

    /// <returns>How long each answer took, of a caller that keeps its connection, of one that does not, and of probes.</returns>
    private async Task<List<TimeSpan>> AskThroughAsync(string url, Guid agent, TimeSpan duration)
    {
        using var kept = Client(url, Timeout.InfiniteTimeSpan);
        using var anew = Client(url, TimeSpan.Zero);
        var answers = new List<TimeSpan>();
        for (var started = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(started) < duration; await Task.Delay(50))
        {
            foreach (var (client, path) in new[]
            {
                (kept, TestService.AccountPath(agent.ToString())), (anew, TestService.AccountPath(agent.ToString())),
                (anew, "/health/live"), (anew, "/health/ready"),
            })
            {
                using var request = new HttpRequestMessage(HttpMethod.Get, path);
                request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {Tokens.OfOrganization(_org)}");
                var sent = Stopwatch.GetTimestamp();
                using var response = await client.SendAsync(request);
                answers.Add(Stopwatch.GetElapsedTime(sent));
                Assert.Equal((path, HttpStatusCode.OK), (path, response.StatusCode));
            }
        }

        return answers;
    }

    private static HttpClient Client(string url, TimeSpan connectionLifetime) =>
        new(new SocketsHttpHandler { UseProxy = false, PooledConnectionLifetime = connectionLifetime })
        {
            BaseAddress = new Uri(url),
            Timeout = TimeSpan.FromSeconds(10),
        };

    private static long PeakResidentBytes(ServiceProcess process)
    {
        var line = File.ReadLines($"/proc/{process.Id}/status").First(line => line.StartsWith("VmHWM:", StringComparison.Ordinal));
        return long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * 1024;
    }

    private async Task<Started> StartAsync()
    {
        var process = ServiceProcess.Start(["--urls=http://127.0.0.1:0"], new()
        {
            // Three quarters of the memory, as .NET sets it in a container.
            ["DOTNET_GCHeapHardLimit"] = (Memory / 4 * 3).ToString("x", CultureInfo.InvariantCulture),
            ["Logging__LogLevel__CalcomAccounts"] = "None",
            ["ConnectionStrings__CalcomAccounts"] = fixture.Tables.ServiceConnectionString,
            ["Authentication__Schemes__Bearer__ValidIssuer"] = Tokens.Issuer,
            ["Authentication__Schemes__Bearer__ValidAudience"] = Tokens.Audience,
            ["Authentication__Schemes__Bearer__SigningKeys__0__Value"] = Convert.ToBase64String(Tokens.Key),
        });
        var url = await process.WaitForUrlAsync();
        await RawHttp.SendAsync(url, "GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        return new(process, url);
    }

    private sealed record Started(ServiceProcess Process, string Url) : IDisposable
    {
        public void Dispose() => Process.Dispose();
    }

    /// <summary>Connections that send what they are told, never read, and come again when they are closed.</summary>
    private sealed class HostileConnections : IDisposable
    {
        private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(100);

        private readonly byte[][] _pieces;
        private readonly IPEndPoint _server;
        private readonly List<Connection> _connections = [];
        private readonly Thread _thread;
        private readonly bool _renew;
        private readonly TaskCompletionSource _opened = new();
        private volatile bool _ended;
        private Exception? _failure;

        public HostileConnections(string url, int count, string[] pieces, bool renew)
        {
            _pieces = [.. pieces.Select(Encoding.ASCII.GetBytes)];
            _server = new(IPAddress.Loopback, new Uri(url).Port);
            _renew = renew;
            _thread = new Thread(() => Run(count));
            _thread.Start();
        }

        /// <summary>All are connected, and have sent their first piece.</summary>
        public Task OpenedAsync() => _opened.Task.WaitAsync(TimeSpan.FromSeconds(10));

        public void ThrowIfFailed() => Assert.Null(_failure);

        public void Dispose()
        {
            _ended = true;
            _thread.Join();
        }

        private void Run(int count)
        {
            try
            {
                while (!_ended)
                {
                    for (var i = 0; i < 25 && _connections.Count < count; i++)
                    {
                        _connections.Add(new Connection(_server));
                    }

                    _connections.ForEach(connection => connection.Continue(_pieces, s_pause));
                    if (_connections.Count == count && _connections.TrueForAll(connection => connection.HasBegun || _pieces is []))
                    {
                        _opened.TrySetResult();
                    }

                    if (_renew)
                    {
                        _connections.RemoveAll(connection => connection.IsClosed());
                    }

                    Thread.Sleep(10);
                }
            }
            catch (Exception exception)
            {
                _failure = exception;
            }
            finally
            {
                _connections.ForEach(connection => connection.Dispose());
            }
        }
    }

    private sealed class Connection : IDisposable
    {
        private readonly Socket _socket = new(SocketType.Stream, ProtocolType.Tcp) { LingerState = new(true, 0) };
        private long _sentAt;
        private int _piece;
        private int _offset;
        private bool _failed;

        public Connection(IPEndPoint server)
        {
            _socket.Connect(server);
            _socket.Blocking = false;
        }

        public bool HasBegun => _piece > 0;

        public void Continue(byte[][] pieces, TimeSpan pause)
        {
            if (_failed || _piece == pieces.Length || Stopwatch.GetElapsedTime(_sentAt) < pause)
            {
                return;
            }

            _offset += Math.Max(0, _socket.Send(pieces[_piece], _offset, pieces[_piece].Length - _offset, SocketFlags.None, out var error));
            _failed = error is not (SocketError.Success or SocketError.WouldBlock);
            if (_offset == pieces[_piece].Length)
            {
                _sentAt = Stopwatch.GetTimestamp();
                _offset = 0;
                _piece++;
            }
        }

        /// <summary>Also when it is closed without an answer: a byte of one is looked at, not taken.</summary>
        public bool IsClosed()
        {
            if (!_failed && _socket.Poll(0, SelectMode.SelectRead))
            {
                var bytes = _socket.Receive(new byte[1], 0, 1, SocketFlags.Peek, out var error);
                _failed = bytes is 0 && error is not SocketError.WouldBlock;
            }

            if (_failed)
            {
                Dispose();
            }

            return _failed;
        }

        public void Dispose() => _socket.Dispose();
    }
}
