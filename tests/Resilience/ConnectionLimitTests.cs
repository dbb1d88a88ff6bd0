using System.Diagnostics;
using System.Text;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Resilience;

/// <summary>docs/configuration.md: limits of connections and requests.</summary>
public sealed class ConnectionLimitTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private readonly Guid _org = Guid.NewGuid();

    [Fact]
    public async Task SilentIdleAndNotReadingConnections_AreClosedWithinTwentySeconds()
    {
        using var service = await MemoryLimitedService.StartAsync(fixture.Tables);
        var started = Stopwatch.GetTimestamp();
        using var slow = await RawHttp.ConnectAsync(service.Url);
        await slow.GetStream().WriteAsync(Encoding.ASCII.GetBytes(HostileConnections.PipelinedAssets));
        using var silent = new HostileConnections(service.Url, HostileConnections.AlmostAll / 2, [], renew: false);
        using var idle = new HostileConnections(service.Url, HostileConnections.AlmostAll / 2, [HostileConnections.OneRequest], renew: false);

        // With these connections the limit is reached.
        using var last = new HostileConnections(service.Url, 200, [], renew: false);
        await Task.WhenAll(silent.OpenedAsync(), idle.OpenedAsync(), last.OpenedAsync());
        await Task.Delay(200);
        Assert.Equal(0, (await RawHttp.SendAsync(service.Url, "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).Status);

        while ((await RawHttp.SendAsync(service.Url, "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).Status is 0)
        {
            Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 20);
            await Task.Delay(100);
        }

        // The connection is reset before the end of its first answer.
        using var received = new MemoryStream();
        await Assert.ThrowsAnyAsync<IOException>(() => slow.GetStream().CopyToAsync(received));
        Assert.InRange(received.Length, 1, 1024 * 1024);
        service.AssertPeakMemoryWithinLimit();
    }

    [Fact]
    public async Task LongHeaders_OnFiveHundredConnections_FurtherOnesAreClosed()
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
    public async Task TokenOfThirtyKilobytes_IsAcceptedAndConnectionIsClosed()
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
    public async Task SwaggerAssets_AreCacheableAndOtherResponsesAreNot()
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
    public async Task ClientResetsWhileBodyIsRead_IsLoggedAs499WithoutError()
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

            // Disposing the client would send a FIN first.
            connection.Client.Close(timeout: 0);
        }

        // A connection that is reset at once may never become a request.
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
    public async Task MalformedChunk_Returns400(string chunk)
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
    public async Task ContentLength_OtherThanDigits_Returns400(string header, int status) => Assert.Equal(
        status, (await RawHttp.SendAsync(fixture.Service.Url, PostHead($"Connection: close\r\n{header}") + $$"""{"agent_ids":["{{Guid.Empty}}"]}""")).Status);

    /// <summary>Requests without a token, whose body nobody reads, and lists whose body is read.</summary>
    [Theory]
    [InlineData(0, false, false, true)]
    [InlineData(0, false, true, false)]
    [InlineData(0, true, true, true)]
    [InlineData(20_000, false, false, false)]
    [InlineData(100_000, false, false, false)]
    [InlineData(100_000, false, true, false)]
    [InlineData(100_000, true, false, false)]
    public async Task RefusedRequest_WithLongBody_SaysThatConnectionIsClosed(int length, bool hasToken, bool chunked, bool kept)
    {
        var body = $$"""{"agent_ids":["{{Guid.Empty}}"]{{new string(' ', length)}}}""";

        // A connection that is closed without notice fails the next request.
        for (var i = 0; i < 20; i++)
        {
            var answer = await fixture.Service.SendAsync("POST", TestService.AccountsPath, hasToken ? Tokens.OfOrganization(_org) : null, request =>
            {
                request.Content = new StringContent(body, Encoding.UTF8, "application/json");
                request.Headers.TransferEncodingChunked = chunked;
            });

            Assert.Equal((!hasToken ? 401 : length > 0 ? 400 : 200, kept ? null : "close"), (answer.Status, answer.Header("Connection")));
        }
    }

    private string PostHead(string header) =>
        $"POST {TestService.AccountsPath} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {Tokens.OfOrganization(_org)}\r\n{header}\r\n\r\n";

    private static string Repeat(string text, int times) => string.Concat(Enumerable.Repeat(text, times));
}
