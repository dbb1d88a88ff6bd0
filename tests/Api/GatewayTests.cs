using System.Text.Json.Nodes;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Infrastructure;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/deployment.md: a path base, and X-Forwarded-* headers of those alone that are known.</summary>
public sealed class GatewayTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string PathBase = "CalcomAccounts:PathBase";
    private const string KnownNetwork = "CalcomAccounts:ForwardedHeaders:KnownNetworks:0";
    private const string Document = "/swagger/v1/swagger.json";
    private const string Hostile = "evil.example";

    private readonly Guid _org = Guid.NewGuid();

    public static TheoryData<string, string> ForwardedHeaders => new()
    {
        { "X-Forwarded-For", "203.0.113.9" },
        { "X-Forwarded-Proto", "https" },
        { "X-Forwarded-Proto", "javascript" },
        { "X-Forwarded-Host", Hostile },
        { "X-Forwarded-Host", $"{Hostile}/{Hostile}" },
        { "X-Forwarded-Host", "not a host" },
        { "X-Forwarded-Host", "" },
        { "X-Forwarded-Prefix", $"/{Hostile}" },
        { "X-Forwarded-Prefix", $"//{Hostile}" },
        { "X-Forwarded-Prefix", "" },
        { "X-Forwarded-PathBase", $"/{Hostile}" },
        { "X-Original-Prefix", $"/{Hostile}" },
        { "X-Original-Host", Hostile },
        { "Forwarded", $"host={Hostile};proto=https" },
    };

    [Theory]
    [InlineData("/calcom")]
    [InlineData("/platform/calcom.v1")]
    public async Task Request_UnderThePathBase_IsAnsweredAsWithoutOne(string pathBase)
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var token = Tokens.OfOrganization(_org);
        await using var service = await StartAsync((PathBase, pathBase));

        foreach (var (method, target, status) in new[]
        {
            ("GET", TestService.AccountPath(agent.ToString()), 200),
            ("GET", TestService.AccountPath(agent.ToString()) + "/", 200),
            ("GET", TestService.AccountPath("42"), 400),
            ("GET", "/api/v1/calcom/agents//account", 400),
            ("PUT", TestService.AccountPath(agent.ToString()), 405),
            ("GET", "/nowhere", 404),
            ("GET", "/health/live", 200),
            ("GET", "/health/ready", 200),
            ("GET", "/swagger/index.html", 200),
        })
        {
            var expected = await fixture.Service.SendAsync(method, target, token);
            var answer = await service.SendAsync(method, pathBase + target, token);

            Assert.Equal((status, status), (expected.Status, answer.Status));
            Assert.Equal(expected.Body.Replace("\"/swagger", $"\"{pathBase}/swagger", StringComparison.Ordinal), answer.Body);
        }

        Assert.Equal(200, (await service.SendAsync("POST", pathBase + TestService.AccountsPath, token, request =>
            request.Content = new StringContent($$"""{"agent_ids":["{{agent}}"]}""", null, "application/json"))).Status);
    }

    [Fact]
    public async Task Request_OutsideThePathBase_Is404InTheEnvelope_ExceptForHealth()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var account = TestService.AccountPath(agent.ToString());
        await using var service = await StartAsync((PathBase, "/calcom"));

        foreach (var target in new[] { "/", account, $"/calcomx{account}", $"/x/calcom{account}", "/swagger", Document, "/calcom/calcom/health/live", "/healthy", "/calcom" })
        {
            var answer = await service.SendAsync("GET", target, Tokens.OfOrganization(_org));

            Assert.Equal((404, """{"success":false,"message":"Route not found","code":"NOT_FOUND"}"""), (answer.Status, answer.Body));
        }

        Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
        Assert.Equal(200, (await service.SendAsync("GET", "/health/ready")).Status);
    }

    [Theory]
    [InlineData("calcom")]
    [InlineData("/calcom/")]
    [InlineData("/")]
    [InlineData("//calcom")]
    [InlineData("/a//b")]
    [InlineData("/a/../b")]
    [InlineData("/a/.")]
    [InlineData("/a b")]
    [InlineData("/a%20b")]
    [InlineData("/a?b")]
    [InlineData("/a\n")]
    [InlineData("https://calcom.example/calcom")]
    [InlineData("/health")]
    [InlineData("/health/x")]
    public void PathBase_ThatIsNone_IsRefusedAtStart(string pathBase) =>
        Assert.Equal("CalcomAccounts:PathBase has to be a path as in /calcom, and not /health", Refusal((PathBase, pathBase)));

    [Theory]
    [InlineData(KnownNetwork, "10.0.0.0", "KnownNetworks:0 has to be a network in CIDR notation, as in 10.0.0.0/8")]
    [InlineData(KnownNetwork, "10.0.0.0/33", "KnownNetworks:0 has to be a network in CIDR notation, as in 10.0.0.0/8")]
    [InlineData(KnownNetwork, "gateway", "KnownNetworks:0 has to be a network in CIDR notation, as in 10.0.0.0/8")]
    [InlineData(KnownNetwork, "", "KnownNetworks:0 has to be a network in CIDR notation, as in 10.0.0.0/8")]
    [InlineData("CalcomAccounts:ForwardedHeaders:KnownNetworks", "10.0.0.0/8", "KnownNetworks has to be a list, as in CalcomAccounts:ForwardedHeaders:KnownNetworks:0")]
    [InlineData("CalcomAccounts:ForwardedHeaders:KnownNetwork:0", "10.0.0.0/8", "KnownNetwork is no setting; there is CalcomAccounts:ForwardedHeaders:KnownNetworks")]
    public void KnownNetwork_ThatIsNone_IsRefusedAtStart(string setting, string value, string refusal) =>
        Assert.Equal($"CalcomAccounts:ForwardedHeaders:{refusal}", Refusal((setting, value)));

    [Fact]
    public void ForwardedHeaders_WithAnEmptyOrNoList_AreOff()
    {
        Assert.Null(Refusal((PathBase, ""), ("CalcomAccounts:ForwardedHeaders:KnownNetworks", "")));
        Assert.Null(Refusal((KnownNetwork, "10.0.0.0/8"), ("CalcomAccounts:ForwardedHeaders:KnownNetworks:1", "fd00::/8")));
    }

    // Each on a service that nobody has asked before: what the first caller sends must not stay for others either.
    [Theory]
    [MemberData(nameof(ForwardedHeaders))]
    public async Task ForwardedHeader_OfAnUnknownPeer_ChangesNothing(string header, string value)
    {
        foreach (var settings in new (string, string?)[][] { [], [(KnownNetwork, "10.0.0.0/8")], [("CalcomAccounts:ForwardedHeaders:KnownNetworks", "")], [(PathBase, "/calcom")] })
        {
            await using var service = await StartAsync(settings);
            var prefix = settings is [(PathBase, { } pathBase)] ? pathBase : "";
            foreach (var target in new[] { Document, "/swagger", "/swagger/", "/swagger/index.html", "/swagger/swagger-ui.css", "/swagger/nothing", TestService.AccountPath("42") })
            {
                var forwarded = await service.SendAsync("GET", prefix + target, configure: request => request.Headers.TryAddWithoutValidation(header, value));
                var plain = await service.SendAsync("GET", prefix + target);

                Assert.Equal((plain.Status, plain.Body, plain.Header("Location")), (forwarded.Status, forwarded.Body, forwarded.Header("Location")));
                Assert.Equal(Kept(plain), Kept(forwarded));
                Assert.InRange(forwarded.Status, 200, 404);
                Assert.DoesNotContain(Hostile, forwarded.Body + forwarded.Header("Location"), StringComparison.Ordinal);
            }

            Assert.Equal($"{(prefix is "" ? "/" : prefix)}", await ReadServerAsync(service, prefix));
        }

        static string[] Kept(Answer answer) => [.. answer.Headers.Where(entry => entry.Key is not "Date").Select(entry => $"{entry.Key}: {entry.Value}").Order()];
    }

    [Fact]
    public async Task ForwardedPrefix_OfAKnownPeer_IsWhereThePageLooks_ForThatRequestAlone()
    {
        await using var service = await StartAsync((KnownNetwork, "127.0.0.0/8"));

        Assert.Equal("/calcom", await ReadServerAsync(service, "", "/calcom"));
        Assert.Equal("/other", await ReadServerAsync(service, "", "/other"));
        Assert.Equal("/", await ReadServerAsync(service, ""));
        Assert.Equal("/calcom/swagger/index.html", (await GetAsync(service, "/swagger", "/calcom")).Header("Location"));
        Assert.Contains("\"/calcom/swagger/v1/swagger.json\"", (await GetAsync(service, "/swagger/index.html", "/calcom")).Body, StringComparison.Ordinal);
        Assert.Contains("\"/swagger/v1/swagger.json\"", (await GetAsync(service, "/swagger/index.html", prefix: null)).Body, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ForwardedPrefix_BesideAPathBase_ComesBeforeIt()
    {
        await using var service = await StartAsync((KnownNetwork, "127.0.0.0/8"), (PathBase, "/calcom"));

        Assert.Equal("/outer/calcom", await ReadServerAsync(service, "/calcom", "/outer"));
        Assert.Equal("/outer/calcom/swagger/index.html", (await GetAsync(service, "/calcom/swagger", "/outer")).Header("Location"));
        Assert.Equal(404, (await GetAsync(service, "/swagger", "/calcom")).Status);
    }

    // A gateway that is known may still pass on what its client sent.
    [Theory]
    [InlineData("//evil.example")]
    [InlineData("/\\evil.example")]
    [InlineData("/\"</script><script>alert(1)</script>")]
    [InlineData("/%22%3C/script%3E")]
    [InlineData("/<url>")]
    [InlineData("/%")]
    [InlineData("/%ff")]
    [InlineData("/a/../..")]
    [InlineData("no-slash")]
    [InlineData("https://evil.example")]
    public async Task ForwardedPrefix_ThatIsHostile_LeadsToNoOtherHost(string prefix)
    {
        await using var service = await StartAsync((KnownNetwork, "127.0.0.0/8"));
        var plain = await GetAsync(service, "/swagger/index.html", prefix: null);

        var page = await GetAsync(service, "/swagger/index.html", prefix);
        var redirect = await GetAsync(service, "/swagger", prefix);

        Assert.Equal((200, 302), (page.Status, redirect.Status));
        Assert.Matches("^/([^/].*)?$", await ReadServerAsync(service, "", prefix));
        Assert.Matches("^/[^/\\\\]", redirect.Header("Location"));
        Assert.Equal(Occurrences(plain.Body), Occurrences(page.Body));
        Assert.Equal("/", await ReadServerAsync(service, ""));

        static (int Scripts, int Quotes) Occurrences(string html) => (html.Split("<script").Length + html.Split("</script").Length, html.Split('"').Length);
    }

    [Theory]
    [InlineData("/swagger/v1/swagger.json", 200)]
    [InlineData("/swagger", 302)]
    [InlineData("/health/live", 200)]
    [InlineData("/api/v1/calcom/agents/42/account", 400)]
    [InlineData("/nowhere", 404)]
    public async Task Http10_WithoutHost_IsAnswered(string target, int status)
    {
        // NSwag would make a URL of the Host header, and remember for others that it can't.
        await using var service = await StartAsync();
        var token = Tokens.OfOrganization(_org);

        var answer = await RawHttp.SendAsync(service.Url, $"GET {target} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n");

        var plain = await service.SendAsync("GET", target, token);
        Assert.Equal((status, plain.Status, plain.Body), (answer.Status, answer.Status, answer.Body));
        Assert.Equal(plain.Header("Location"), answer.Header("Location"));
    }

    [Fact]
    public async Task HeadersOfAGatewayAndOfABrowser_AreNotLogged_AtAnyLevel()
    {
        const string Written = "written-by-a-caller";
        using var log = new CapturedLog(LogLevel.Trace);
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString,
            new() { [KnownNetwork] = "127.0.0.0/8", ["CalcomAccounts:Cors:AllowedOrigins:0"] = "https://app.example" },
            builder => builder.Logging.AddProvider(log));

        foreach (var header in new[] { "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "Origin" })
        {
            await service.SendAsync("OPTIONS", "/health/live", configure: request => request.Headers.TryAddWithoutValidation(header, $"https://{Written}"));
            await service.SendAsync("GET", "/health/live", configure: request => request.Headers.TryAddWithoutValidation(header, $"/{Written}, /{Written}"));
        }

        Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
        Assert.NotEmpty(log.Lines);
        Assert.DoesNotContain(log.Lines, line => line.Contains(Written, StringComparison.Ordinal));
    }

    private static Task<Answer> GetAsync(TestService service, string target, string? prefix) =>
        service.SendAsync("GET", target, configure: request =>
        {
            if (prefix is not null)
            {
                request.Headers.TryAddWithoutValidation("X-Forwarded-Prefix", prefix);
            }
        });

    private static async Task<string> ReadServerAsync(TestService service, string pathBase, string? prefix = null)
    {
        var answer = await GetAsync(service, pathBase + Document, prefix);
        Assert.Equal(200, answer.Status);
        return JsonNode.Parse(answer.Body)!["servers"]![0]!["url"]!.GetValue<string>();
    }

    private Task<TestService> StartAsync(params (string Key, string? Value)[] settings) =>
        TestService.StartAsync(fixture.Tables.ServiceConnectionString, settings.ToDictionary(setting => setting.Key, setting => setting.Value));

    private static string? Refusal(params (string Key, string Value)[] settings)
    {
        string[] complete =
        [
            "--environment=Production", "--ConnectionStrings:CalcomAccounts=Host=localhost",
            $"--Authentication:Schemes:Bearer:ValidIssuer={Tokens.Issuer}", $"--Authentication:Schemes:Bearer:ValidAudience={Tokens.Audience}",
            $"--Authentication:Schemes:Bearer:SigningKeys:0:Value={Convert.ToBase64String(Tokens.Key)}",
        ];
        var refusal = Record.Exception(() => ServiceHost.Build(ServiceHost.CreateBuilder([.. complete, .. settings.Select(setting => $"--{setting.Key}={setting.Value}")])));
        return refusal is null ? null : Assert.IsType<StartupException>(refusal).Message;
    }
}
