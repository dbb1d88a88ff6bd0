using System.Diagnostics;
using System.Text;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/api.md: paths, queries, methods, headers and error envelopes.</summary>
public sealed class RequestTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string Uuid = "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01";
    private const string InvalidAgentId = """{"success":false,"message":"agent_id must be a UUID","code":"INVALID_REQUEST"}""";
    private const string InvalidOrgId = """{"success":false,"message":"org_id must be a UUID, given once","code":"INVALID_REQUEST"}""";
    private const string AgentNotFound = """{"success":false,"message":"Agent not found","code":"NOT_FOUND"}""";
    private const string RouteNotFound = """{"success":false,"message":"Route not found","code":"NOT_FOUND"}""";
    private const string MethodNotAllowed = """{"success":false,"message":"Method not allowed","code":"METHOD_NOT_ALLOWED"}""";
    private const string InternalError = """{"success":false,"message":"Something went wrong; try again","code":"INTERNAL_ERROR"}""";

    private readonly Guid _org = Guid.NewGuid();

    public static TheoryData<string> MalformedAgentIds() =>
    [
        "", "%20", "%09", "garbage", "0", "null",
        "0f9d6c1e3a524b7e9c415d2e8a7b6c01",
        "{0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01}", "%7B0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01%7D",
        "(0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01)",
        "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c0", "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c011",
        "0f9d6c1e-3a52-4b7e-9c415-d2e8a7b6c01",
        "0f9d6c1g-3a52-4b7e-9c41-5d2e8a7b6c01",
        "+f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01", "0x9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01",
        "0f9d6c1e-0x52-4b7e-9c41-5d2e8a7b6c01", "0f9d6c1e-+a52-4b7e-9c41-5d2e8a7b6c01",
        "%200f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01", "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01%20",
        "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01%0A", "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01%0D%0A",
        "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01%2F", "0f9d6c1e%2D3a52%252D4b7e-9c41-5d2e8a7b6c01",
        "%2530f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01", "%2",
        "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01;v=1", "..%2F0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01",
        "%D9%A0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01", "%EF%BC%90f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01",
        "0f9d6c1e%E2%80%903a52-4b7e-9c41-5d2e8a7b6c01", "%C0%AF", "'%20or%201=1--",
        "urn:uuid:0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01",
    ];

    [Theory]
    [MemberData(nameof(MalformedAgentIds))]
    public async Task MalformedAgentId_Returns400OnlyWithValidToken(string agentId)
    {
        var account = TestService.AccountPath(agentId);
        foreach (var path in new[] { account, account + "/", account + "/explain", account + "/explain/" })
        {
            var answer = await fixture.Service.SendAsync("GET", path, Tokens.OfOrganization(_org));
            Assert.Equal((400, InvalidAgentId), (answer.Status, answer.Body));
            Assert.Equal(401, (await fixture.Service.SendAsync("GET", path)).Status);
        }
    }

    // Guid.TryParseExact would accept the second one.
    [Theory]
    [InlineData("garbage")]
    [InlineData("+f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01")]
    public void UuidParse_InvalidText_Throws(string text) =>
        Assert.Equal("Not a UUID.", Assert.Throws<FormatException>(() => CalcomAccounts.Application.Uuid.Parse(text)).Message);

    [Theory]
    [InlineData(Uuid)]
    [InlineData("0F9D6C1E-3A52-4B7E-9C41-5D2E8A7B6C01")]
    [InlineData("%30f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01")]
    [InlineData("0f9d6c1e%2D3a52%2d4b7e-9c41-5d2e8a7b6c01")]
    [InlineData("00000000-0000-0000-0000-000000000000")]
    [InlineData("ffffffff-ffff-ffff-ffff-ffffffffffff")]
    public async Task AnyUuidSpelling_IsAcceptedAsAgentId(string agentId)
    {
        var answer = await fixture.Service.SendAsync("GET", TestService.AccountPath(agentId), Tokens.OfOrganization(_org));

        Assert.Equal((404, AgentNotFound), (answer.Status, answer.Body));
    }

    [Theory]
    [InlineData("?org_id=")]
    [InlineData("?org_id")]
    [InlineData("?org_id=%20")]
    [InlineData("?org_id=garbage")]
    [InlineData("?org_id={0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01}")]
    [InlineData("?org_id=0f9d6c1e3a524b7e9c415d2e8a7b6c01")]
    [InlineData("?org_id=+0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01")]
    [InlineData("?org_id=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01%0A")]
    [InlineData("?org_id=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01%00")]
    [InlineData("?org_id=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01,")]
    [InlineData("?org_id=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01&org_id=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01")]
    [InlineData("?org_id=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01&org_id=")]
    public async Task MalformedOrgId_Returns400OnlyForMemberTokens(string query)
    {
        var path = TestService.AccountPath(Uuid) + query;

        var needed = await fixture.Service.SendAsync("GET", path, Tokens.OfSubject("somebody"));
        var ignored = await fixture.Service.SendAsync("GET", path, Tokens.OfOrganization(_org));
        var withoutToken = await fixture.Service.SendAsync("GET", path);

        Assert.Equal((400, InvalidOrgId), (needed.Status, needed.Body));
        Assert.Equal((404, AgentNotFound), (ignored.Status, ignored.Body));
        Assert.Equal(401, withoutToken.Status);
    }

    [Theory]
    [InlineData("GET", "/")]
    [InlineData("GET", "/api/v1/calcom/agents")]
    [InlineData("GET", "/api/v1/calcom/agents/account")]
    [InlineData("GET", "/api/v1/calcom/agents/" + Uuid)]
    [InlineData("GET", "/api/v1/calcom/agents///account")]
    [InlineData("GET", "/api/v1/calcom/agents/" + Uuid + "//account")]
    [InlineData("GET", "/api/v1/calcom/agents/" + Uuid + "/account//")]
    [InlineData("GET", "/api/v1/calcom/agents/" + Uuid + "/account/explain/more")]
    [InlineData("GET", "/api/v2/calcom/agents/" + Uuid + "/account")]
    [InlineData("POST", "/nowhere")]
    public async Task UnknownRoute_Returns404WithAndWithoutToken(string method, string path)
    {
        foreach (var token in new[] { null, Tokens.OfOrganization(_org) })
        {
            var answer = await fixture.Service.SendAsync(method, path, token);
            Assert.Equal((404, RouteNotFound), (answer.Status, answer.Body));
            AssertHeaders(answer);
        }
    }

    [Theory]
    [InlineData("PUT")]
    [InlineData("POST")]
    [InlineData("PATCH")]
    [InlineData("DELETE")]
    [InlineData("OPTIONS")]
    [InlineData("TRACE")]
    [InlineData("UNHEARD-OF")]
    public async Task WrongMethod_Returns405WithAllowHeader(string method)
    {
        foreach (var token in new[] { null, Tokens.OfOrganization(_org) })
        {
            foreach (var path in new[] { TestService.AccountPath(Uuid), TestService.AccountPath(Uuid) + "/explain" })
            {
                var answer = await fixture.Service.SendAsync(method, path, token);
                Assert.Equal((405, MethodNotAllowed), (answer.Status, answer.Body));
                Assert.Equal("GET, HEAD", answer.Header("Allow"));
                AssertHeaders(answer);
            }
        }
    }

    [Theory]
    [InlineData("/health/live")]
    [InlineData("/health/ready")]
    public async Task HealthEndpoint_Post_Returns405(string path)
    {
        var answer = await fixture.Service.SendAsync("POST", path);

        Assert.Equal((405, MethodNotAllowed, "GET, HEAD"), (answer.Status, answer.Body, answer.Header("Allow")));
    }

    [Fact]
    public async Task Head_ReturnsHeadersOfGetWithoutBody()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var account = TestService.AccountPath(agent.ToString());
        foreach (var (path, token) in new[]
        {
            (account, Tokens.OfOrganization(_org)), (account + "/explain", Tokens.OfOrganization(_org)),
            (TestService.AccountPath("garbage"), Tokens.OfOrganization(_org)), (TestService.AccountPath(Uuid), Tokens.OfOrganization(_org)), (account, null),
        })
        {
            var get = await fixture.Service.SendAsync("GET", path, token);
            var head = await fixture.Service.SendAsync("HEAD", path, token);

            Assert.Equal(get.Status, head.Status);
            Assert.Empty(head.Body);
            AssertHeaders(head);
            Assert.Equal(
                get.Headers.Where(header => header.Key is not ("Date" or "Transfer-Encoding")),
                head.Headers.Where(header => header.Key is not "Date"));
        }
    }

    [Fact]
    public async Task TrailingSlash_MatchesTheSameRoute()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);

        Assert.Equal(200, (await fixture.Service.SendAsync("GET", TestService.AccountPath(agent.ToString()) + "/", Tokens.OfOrganization(_org))).Status);
        Assert.Equal(200, (await fixture.Service.SendAsync("GET", TestService.AccountPath(agent.ToString()) + "/explain/", Tokens.OfOrganization(_org))).Status);
        Assert.Equal(200, (await fixture.Service.GetAccountsAsync([agent], Tokens.OfOrganization(_org), query: "/")).Status);
    }

    [Theory]
    [InlineData("application/xml")]
    [InlineData("text/html,application/xhtml+xml")]
    [InlineData("application/json;charset=utf-16")]
    [InlineData("text/json")]
    [InlineData("application/problem+json")]
    [InlineData("image/*;q=0")]
    [InlineData("not a media type")]
    public async Task AnyAcceptHeader_ReturnsJson(string accept)
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        foreach (var (id, token, status) in new[]
        {
            (agent.ToString(), Tokens.OfOrganization(_org), 200), ("garbage", Tokens.OfOrganization(_org), 400),
            (Uuid, Tokens.OfOrganization(_org), 404), (Uuid, null, 401),
        })
        {
            var answer = await fixture.Service.SendAsync("GET", TestService.AccountPath(id), token, request =>
            {
                request.Headers.TryAddWithoutValidation("Accept", accept);
                request.Headers.TryAddWithoutValidation("Accept-Charset", "utf-16");
            });

            Assert.Equal(status, answer.Status);
            AssertHeaders(answer);
            Assert.StartsWith("{\"success\":", answer.Body, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task GetWithBody_IgnoresTheBody()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);

        var answer = await fixture.Service.SendAsync("GET", TestService.AccountPath(agent.ToString()), Tokens.OfOrganization(_org),
            request => request.Content = new StringContent("{\"agent_id\":", Encoding.UTF8, "application/xml"));

        Assert.Equal(200, answer.Status);
    }

    [Fact]
    public async Task DatabaseUnreachable_Returns500WithoutDetails()
    {
        var errors = new CapturedLog(LogLevel.Error);
        await using var service = await TestService.StartAsync(
            "Host=127.0.0.1;Port=1;Database=nowhere;Username=nobody;Password=not-to-be-seen",
            configure: builder => builder.Logging.AddProvider(errors));

        var answer = await service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(_org));

        Assert.Equal((500, InternalError), (answer.Status, answer.Body));
        AssertHeaders(answer);
        Assert.Null(answer.Header("Pragma"));
        Assert.Null(answer.Header("Expires"));
        var line = await errors.SingleLineAsync();
        Assert.Contains("NpgsqlException", line, StringComparison.Ordinal);
        Assert.DoesNotContain("not-to-be-seen", line, StringComparison.Ordinal);
        Assert.Equal((500, InternalError), StatusAndBody(await service.ExplainAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(_org))));
        Assert.Equal((500, InternalError), StatusAndBody(await service.GetAccountsAsync([Guid.NewGuid()], Tokens.OfOrganization(_org))));
        Assert.Equal(401, (await service.GetAccountAsync(Guid.NewGuid(), token: null)).Status);
        Assert.Equal(400, (await service.SendAsync("GET", TestService.AccountPath("garbage"), Tokens.OfOrganization(_org))).Status);
    }

    [Fact]
    public async Task SlowDatabase_Returns500WithinRequestTimeout()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await using var defaultTimeout = await TestService.StartAsync(database.ServiceConnectionString);
        await using var shortTimeout = await TestService.StartAsync(database.ServiceConnectionString, new() { ["CalcomAccounts:RequestTimeoutSeconds"] = "1" });
        await using var locked = await database.LockAsync("agents");
        foreach (var (service, seconds) in new[] { (defaultTimeout, 5), (shortTimeout, 1) })
        {
            var started = Stopwatch.GetTimestamp();
            var answer = await service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(_org));

            Assert.Equal((500, InternalError), (answer.Status, answer.Body));
            Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, seconds);
        }
    }

    [Theory]
    [InlineData("GET /{0} HTTP/1.1\r\nHost: x\r\n\r\n", 9_000, 414)]
    [InlineData("GET / HTTP/1.1\r\nHost: x\r\nX: {0}\r\n\r\n", 33_000, 431)]
    public async Task TooLongRequestLineOrHeaders_Returns414Or431(string request, int length, int status)
    {
        var answer = await RawHttp.SendAsync(fixture.Service.Url, request.Replace("{0}", new string('x', length), StringComparison.Ordinal));

        Assert.Equal((status, ""), (answer.Status, answer.Body));
    }

    [Fact]
    public async Task ConfiguredConnectionLimit_ClosesFurtherConnections()
    {
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString, new() { ["Kestrel:Limits:MaxConcurrentConnections"] = "2" });
        using var first = await RawHttp.ConnectAsync(service.Url);
        using var second = await RawHttp.ConnectAsync(service.Url);
        await Task.Delay(100);

        Assert.Equal(0, (await RawHttp.SendAsync(service.Url, "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).Status);
    }

    [Fact]
    public async Task EveryResponse_HasTheCommonHeaders()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);

        AssertHeaders(await fixture.Service.GetAccountAsync(agent, Tokens.OfOrganization(_org)));
        AssertHeaders(await fixture.Service.GetAccountAsync(agent, token: null));
        AssertHeaders(await fixture.Service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(_org)));
        AssertHeaders(await fixture.Service.SendAsync("GET", TestService.AccountPath("garbage"), Tokens.OfOrganization(_org)));
        AssertHeaders(await fixture.Service.ExplainAccountAsync(agent, Tokens.OfOrganization(_org)));
        AssertHeaders(await fixture.Service.GetAccountsAsync([agent], Tokens.OfOrganization(_org)));
        AssertHeaders(await fixture.Service.GetAccountsAsync([], Tokens.OfOrganization(_org)));
    }

    private static (int Status, string Body) StatusAndBody(Answer answer) => (answer.Status, answer.Body);

    private static void AssertHeaders(Answer answer)
    {
        Assert.Equal("application/json; charset=utf-8", answer.Header("Content-Type"));
        Assert.Equal("no-store", answer.Header("Cache-Control"));
        Assert.Equal("nosniff", answer.Header("X-Content-Type-Options"));
        Assert.Null(answer.Header("Server"));
    }
}
