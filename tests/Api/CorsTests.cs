using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/api.md: pages on other origins, by ASP.NET Core's own CORS. A browser's part is in tests/npm/cross-origin.mjs.</summary>
public sealed class CorsTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string Setting = "CalcomAccounts:Cors:AllowedOrigins:";
    private const string Listed = "https://app.example";
    private const string Malformed = "CalcomAccounts:Cors:AllowedOrigins:0 has to be an origin, as in https://app.example or http://localhost:3000, without a path or a wildcard";

    private readonly Guid _org = Guid.NewGuid();

    [Theory]
    [InlineData("https://app.example", "https://app.example")]
    [InlineData("HTTPS://App.Example:443", "https://app.example")]
    [InlineData("http://localhost:3000", "http://localhost:3000")]
    [InlineData("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443")]
    [InlineData("https://bücher.example", "https://xn--bcher-kva.example")]
    [InlineData("capacitor://localhost", "capacitor://localhost")]
    public async Task Preflight_OfAListedOrigin_Is204WithoutAToken(string setting, string origin)
    {
        await using var service = await StartAsync(setting);

        var answer = await PreflightAsync(service, origin);

        Assert.Equal((204, ""), (answer.Status, answer.Body));
        Assert.Equal(origin, answer.Header("Access-Control-Allow-Origin"));
        Assert.Equal("GET,HEAD,POST", answer.Header("Access-Control-Allow-Methods"));
        Assert.Equal("Authorization,Content-Type", answer.Header("Access-Control-Allow-Headers"));
        Assert.Equal("7200", answer.Header("Access-Control-Max-Age"));
        Assert.Equal("Origin", answer.Header("Vary"));
        Assert.Null(answer.Header("Access-Control-Allow-Credentials"));
    }

    [Theory]
    [InlineData("https://other.example")]
    [InlineData("http://app.example")]
    [InlineData("https://app.example:8443")]
    [InlineData("https://app.example.evil.example")]
    [InlineData("https://sub.app.example")]
    [InlineData("null")]
    public async Task Origin_ThatIsNotListed_GetsNoHeader(string origin)
    {
        await using var service = await StartAsync(Listed);

        foreach (var answer in new[] { await PreflightAsync(service, origin), await AskAsync(service, "/health/live", token: null, origin) })
        {
            Assert.DoesNotContain(answer.Headers, header => header.Key.StartsWith("Access-Control-", StringComparison.OrdinalIgnoreCase));
            Assert.Equal("Origin", answer.Header("Vary"));
        }
    }

    [Fact]
    public async Task Answer_ToAListedOrigin_CanBeRead_HoweverItEnds()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var token = Tokens.OfOrganization(_org);
        await using var service = await StartAsync("https://first.example", Listed);
        await using var withoutDatabase = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody", new() { [Setting + "0"] = Listed });

        foreach (var (answer, status) in new[]
        {
            (await AskAsync(service, TestService.AccountPath(agent.ToString()), token), 200),
            (await AskAsync(service, TestService.AccountPath("42"), token), 400),
            (await AskAsync(service, TestService.AccountPath(agent.ToString()), token: null), 401),
            (await AskAsync(service, TestService.AccountPath($"{Guid.NewGuid()}"), token), 404),
            (await AskAsync(service, "/nowhere", token), 404),
            (await AskAsync(service, TestService.AccountPath(agent.ToString()), token, method: "DELETE"), 405),
            (await AskAsync(service, TestService.AccountsPath, token, method: "POST"), 415),
            (await AskAsync(withoutDatabase, TestService.AccountPath(agent.ToString()), token), 500),
            (await AskAsync(service, "/swagger/v1/swagger.json", token: null), 200),
        })
        {
            Assert.Equal((status, Listed), (answer.Status, answer.Header("Access-Control-Allow-Origin")));
            Assert.Equal("Retry-After,WWW-Authenticate", answer.Header("Access-Control-Expose-Headers"));
            Assert.Equal("Origin", answer.Header("Vary"));
            Assert.Equal("no-store", answer.Header("Cache-Control"));
        }
    }

    [Fact]
    public async Task TooManyRequests_OfAListedOrigin_CanBeReadAsWell()
    {
        // One lookup may wait: of many at once the others are refused.
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString, new() { [Setting + "0"] = Listed, ["CalcomAccounts:MaxQueuedLookups"] = "1" });

        var answers = await Task.WhenAll(Enumerable.Range(0, 64).Select(_ => AskAsync(service, TestService.AccountPath($"{Guid.NewGuid()}"), Tokens.OfOrganization(_org))));

        var refused = answers.First(answer => answer.Status is 429);
        Assert.Equal((Listed, "1"), (refused.Header("Access-Control-Allow-Origin"), refused.Header("Retry-After")));
    }

    [Fact]
    public async Task Asset_OfThePage_IsKeptByOrigin_WhoeverAsksForIt()
    {
        await using var service = await StartAsync(Listed);

        var asset = await service.SendAsync("GET", "/swagger/swagger-ui.css", configure: request => request.Headers.TryAddWithoutValidation("Accept-Encoding", "gzip"));

        Assert.Equal(("public, max-age=3600", "Accept-Encoding, Origin"), (asset.Header("Cache-Control"), asset.Header("Vary")));
    }

    [Fact]
    public async Task WithoutOrigins_NothingIsSaidOfThem_AndAPreflightIs405()
    {
        var answer = await AskAsync(fixture.Service, "/health/live", token: null);

        Assert.Equal(200, answer.Status);
        Assert.DoesNotContain(answer.Headers, header => header.Key.StartsWith("Access-Control-", StringComparison.OrdinalIgnoreCase) || header.Key is "Vary");
        Assert.Equal(405, (await PreflightAsync(fixture.Service, Listed)).Status);
    }

    [Theory]
    [InlineData("*")]
    [InlineData("https://*.example")]
    [InlineData("https://*")]
    [InlineData("https://app.example/")]
    [InlineData("https://app.example/path")]
    [InlineData("https://app.example?x")]
    [InlineData("https://app.example#x")]
    [InlineData("https://user@app.example")]
    [InlineData("https://app.example:99999")]
    [InlineData("https://app.example https://other.example")]
    [InlineData("https://app.example,https://other.example")]
    [InlineData("https://app.example\\")]
    [InlineData("https://")]
    [InlineData("file://")]
    [InlineData("app.example")]
    [InlineData("//app.example")]
    [InlineData("null")]
    [InlineData("")]
    [InlineData(" ")]
    public void Origin_ThatIsNone_IsRefusedAtStart(string origin) => Assert.Equal(Malformed, Refusal(Setting + "0", origin));

    [Theory]
    [InlineData("CalcomAccounts:Cors:AllowedOrigins", "https://app.example", "CalcomAccounts:Cors:AllowedOrigins has to be a list, as in CalcomAccounts:Cors:AllowedOrigins:0")]
    [InlineData("CalcomAccounts:Cors:Origins:0", "https://app.example", "CalcomAccounts:Cors:Origins is no setting; there is CalcomAccounts:Cors:AllowedOrigins")]
    [InlineData("CalcomAccounts:Cors", "https://app.example", "CalcomAccounts:Cors is no setting; there is CalcomAccounts:Cors:AllowedOrigins")]
    public void Setting_ThatIsMisspelt_IsRefusedAtStart(string setting, string value, string refusal) => Assert.Equal(refusal, Refusal(setting, value));

    private static Task<Answer> PreflightAsync(TestService service, string origin) =>
        service.SendAsync("OPTIONS", TestService.AccountPath("42"), configure: request =>
        {
            request.Headers.TryAddWithoutValidation("Origin", origin);
            request.Headers.TryAddWithoutValidation("Access-Control-Request-Method", "GET");
            request.Headers.TryAddWithoutValidation("Access-Control-Request-Headers", "authorization");
        });

    private static Task<Answer> AskAsync(TestService service, string target, string? token, string origin = Listed, string method = "GET") =>
        service.SendAsync(method, target, token, request => request.Headers.TryAddWithoutValidation("Origin", origin));

    private Task<TestService> StartAsync(params string[] origins) => TestService.StartAsync(
        fixture.Tables.ServiceConnectionString, origins.Select((origin, i) => (Key: $"{Setting}{i}", origin)).ToDictionary(entry => entry.Key, entry => (string?)entry.origin));

    private static string? Refusal(string setting, string value)
    {
        var refusal = Record.Exception(() => ServiceHost.Build(ServiceHost.CreateBuilder(
        [
            "--environment=Production", "--ConnectionStrings:CalcomAccounts=Host=localhost",
            $"--Authentication:Schemes:Bearer:ValidIssuer={Tokens.Issuer}", $"--Authentication:Schemes:Bearer:ValidAudience={Tokens.Audience}",
            $"--Authentication:Schemes:Bearer:SigningKeys:0:Value={Convert.ToBase64String(Tokens.Key)}", $"--{setting}={value}",
        ])));
        return refusal is null ? null : Assert.IsType<StartupException>(refusal).Message;
    }
}
