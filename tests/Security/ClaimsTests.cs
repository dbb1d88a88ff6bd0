using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Security;

/// <summary>docs/security.md: claims as providers write them, and what a token must have besides.</summary>
public sealed class ClaimsTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>, IAsyncLifetime
{
    private static readonly Guid s_org = Guid.NewGuid();
    private readonly Guid _otherOrg = Guid.NewGuid();

    private Guid _agent;
    private Guid _membersAgent;

    public async ValueTask InitializeAsync()
    {
        _agent = await fixture.Tables.AddAgentAsync(s_org);
        _membersAgent = await fixture.Tables.AddAgentAsync(_otherOrg);
        await fixture.Tables.AddMemberAsync(_otherOrg, "somebody");
        await fixture.Tables.AddMemberAsync(_otherOrg, "object id");
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    [Theory]
    [InlineData("https://platform.example/org_id", """{"https://platform.example/org_id":"$ORG"}""", 200)]
    [InlineData("https://platform.example/org.id", """{"https://platform.example/org":{"id":"$ORG"}}""", 200)]
    [InlineData("app_metadata.org_id", """{"app_metadata":{"org_id":"$ORG"}}""", 200)]
    [InlineData("app_metadata.org_id", """{"app_metadata.org_id":"$ORG","app_metadata":{"org_id":"$OTHER"}}""", 200)]
    [InlineData("app_metadata.org_id", """{"app_metadata":{"org_id":["$ORG"]}}""", 401)]
    [InlineData("app_metadata.org_id", """{"app_metadata":{"org_id":{}}}""", 401)]
    [InlineData("app_metadata.org_id", """{"app_metadata":{"org_id":"org_abc"}}""", 401)]
    [InlineData("app_metadata.org_id", """{"app_metadata":{"org_id":"$ORG","org_id":"$ORG"}}""", 401)]
    [InlineData("app_metadata.org_id", """{"App_Metadata":{"org_id":"$ORG"},"sub":"somebody"}""", 404)]
    [InlineData("app_metadata.org_id", """{"app_metadata":{"org_id":null},"sub":"somebody"}""", 404)]
    [InlineData("app_metadata.org_id", """{"app_metadata":"$ORG","sub":"somebody"}""", 404)]
    [InlineData("o.id", """{"o":{"id":"$ORG"}}""", 200)]
    public async Task OrganizationClaim_ByNameOrPath_IsRead(string claim, string claims, int status)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:OrganizationClaim"] = claim });

        Assert.Equal(status, (await service.GetAccountAsync(_agent, Token(claims))).Status);
    }

    // Auth0 and WorkOS have ids of their own in org_id.
    [Theory]
    [InlineData("uuid", """{"org_id":"org_abc","sub":"somebody"}""", 401, 401)]
    [InlineData("ignore-others", """{"org_id":"org_abc","sub":"somebody"}""", 404, 200)]
    [InlineData("ignore-others", """{"org_id":"org_abc"}""", 401, 401)]
    [InlineData("ignore-others", """{"org_id":"$ORG","sub":"somebody"}""", 200, 404)]
    [InlineData("ignore-others", """{"org_id":["org_abc"],"sub":"somebody"}""", 401, 401)]
    [InlineData("ignore-others", """{"org_id":{"id":"org_abc"},"sub":"somebody"}""", 401, 401)]
    [InlineData("ignore-others", """{"org_id":17,"sub":"somebody"}""", 401, 401)]
    public async Task OrganizationClaimFormat_OfOtherText_DecidesWhetherItIsAbsent(string format, string claims, int status, int statusAsMember)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:OrganizationClaimFormat"] = format });

        Assert.Equal(status, (await service.GetAccountAsync(_agent, Token(claims))).Status);
        Assert.Equal(statusAsMember, (await service.GetAccountAsync(_membersAgent, Token(claims))).Status);
    }

    [Theory]
    [InlineData("oid", """{"sub":"pairwise","oid":"object id"}""", 200)]
    [InlineData("oid", """{"sub":"somebody"}""", 401)]
    [InlineData("user.id", """{"user":{"id":"somebody"}}""", 200)]
    [InlineData(null, """{"sub":"pairwise","oid":"object id"}""", 404)]
    public async Task SubjectClaim_ByNameOrPath_IsRead(string? claim, string claims, int status)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:SubjectClaim"] = claim });

        Assert.Equal(status, (await service.GetAccountAsync(_membersAgent, Token(claims))).Status);
    }

    [Theory]
    [InlineData("""{"org_id":"$ORG","scope":"openid calcom:read"}""", 200)]
    [InlineData("""{"org_id":"$ORG","scope":["openid","calcom:read"]}""", 200)]
    [InlineData("""{"org_id":"$ORG","scp":"calcom:read"}""", 200)]
    [InlineData("""{"org_id":"$ORG","scp":["calcom:read"]}""", 200)]
    [InlineData("""{"org_id":"$ORG","scope":"openid calcom:reading"}""", 403)]
    [InlineData("""{"org_id":"$ORG","scope":"CALCOM:READ"}""", 403)]
    [InlineData("""{"org_id":"$ORG","scope":{"calcom:read":true}}""", 403)]
    [InlineData("""{"org_id":"$ORG"}""", 403)]
    [InlineData("""{"org_id":"garbage","scope":"calcom:read"}""", 401)]
    public async Task RequiredScope_InAnyForm_IsAskedFor(string claims, int status)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:RequiredScope"] = "calcom:read" });

        Assert.Equal(status, (await service.GetAccountAsync(_agent, Token(claims))).Status);
        Assert.Equal(status, (await service.GetAccountAsync(_agent, Token(claims))).Status);
    }

    [Theory]
    [InlineData("""{"org_id":"$ORG","roles":["reader","dialer"]}""", 200)]
    [InlineData("""{"org_id":"$ORG","realm_access":{"roles":["dialer","reader"]}}""", 200)]
    [InlineData("""{"org_id":"$ORG","roles":["reader"]}""", 403)]
    [InlineData("""{"org_id":"$ORG"}""", 403)]
    public async Task RequiredRoles_AllOfThem_AreAskedFor(string claims, int status)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:RequiredRoles:0"] = "reader", ["CalcomAccounts:RequiredRoles:1"] = "dialer" });

        Assert.Equal(status, (await service.GetAccountAsync(_agent, Token(claims))).Status);
    }

    [Fact]
    public async Task TokenThatLacksAScope_IsForbiddenBeforeItsRequestIsJudged()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:RequiredScope"] = "calcom:read" });
        var token = Token("""{"org_id":"$ORG"}""");

        foreach (var answer in new[]
        {
            await service.GetAccountAsync(_agent, token),
            await service.SendAsync("GET", TestService.AccountPath("garbage"), token),
            await service.PostAccountsAsync("{", token),
        })
        {
            Assert.Equal(
                (403, """{"success":false,"message":"The token lacks a scope or role that this service asks for","code":"FORBIDDEN"}"""),
                (answer.Status, answer.Body));
            Assert.Equal("no-store", answer.Header("Cache-Control"));
        }
    }

    [Theory]
    [InlineData("""{"alg":"HS256"}""", "{}", 200)]
    [InlineData("""{"alg":"HS256","typ":"jwt"}""", "{}", 200)]
    [InlineData("""{"alg":"HS256","typ":"at+jwt"}""", "{}", 200)]
    [InlineData("""{"alg":"HS256","typ":"application/at+jwt"}""", "{}", 200)]
    [InlineData("""{"alg":"HS256","typ":"logout+jwt"}""", "{}", 401)]
    [InlineData("""{"alg":"HS256","typ":"dpop+jwt"}""", "{}", 401)]
    [InlineData("""{"alg":"HS256"}""", """{"cnf":{"jkt":"thumbprint"}}""", 401)]
    [InlineData("""{"alg":"HS256"}""", """{"cnf":{"x5t#S256":"thumbprint"}}""", 401)]
    [InlineData("""{"alg":"HS256"}""", """{"cnf":null}""", 200)]
    public async Task Token_OfAnotherTypeOrForOneSender_IsRefused(string header, string claims, int status)
    {
        var payload = Merge(claims, "org_id", s_org.ToString());

        Assert.Equal(status, (await fixture.Service.GetAccountAsync(_agent, Tokens.Sign(header, payload))).Status);
    }

    [Theory]
    [InlineData(null, -20, 200)]
    [InlineData(null, -40, 401)]
    [InlineData("00:00:00", -5, 401)]
    [InlineData("00:05:00", -200, 200)]
    public async Task ClockSkew_IsThatOfTheSection_Else30Seconds(string? clockSkew, int expires, int status)
    {
        await using var service = await StartAsync(new() { ["Authentication:Schemes:Bearer:ClockSkew"] = clockSkew });

        Assert.Equal(status, (await service.GetAccountAsync(_agent, Tokens.With(("org_id", $"{s_org}"), ("exp", Tokens.InSeconds(expires))))).Status);
    }

    // No token in a test's name: the theory is over what is wrong with it.
    private static Dictionary<string, (string Reason, Func<string?> Token)> RefusedTokens { get; } = new()
    {
        ["absent"] = ("no_token", () => null),
        ["no JWT"] = ("malformed", () => "garbage"),
        ["header no JSON"] = ("malformed", () => Tokens.Sign("{", "{}")),
        ["claim given twice"] = ("malformed", () => Tokens.Sign(Header, Merge("""{"sub":"a","sub":"b"}"""))),
        ["another key"] = ("signature", () => Tokens.Sign(Header, Merge("{}"), key: new byte[64])),
        ["unsigned"] = ("algorithm", () => Tokens.Sign("""{"alg":"none"}""", Merge("{}"))),
        ["HS384"] = ("algorithm", () => Tokens.Sign("""{"alg":"HS384"}""", Merge("{}"))),
        ["RS256"] = ("algorithm", () => Tokens.Sign("""{"alg":"RS256","kid":"key"}""", Merge("{}"))),
        ["of a logout"] = ("type", () => Tokens.Sign("""{"alg":"HS256","typ":"logout+jwt"}""", Merge("{}"))),
        ["critical header"] = ("critical_header", () => Tokens.Sign("""{"alg":"HS256","crit":["b64"]}""", Merge("{}"))),
        ["another issuer"] = ("issuer", () => Tokens.With(("iss", "https://other.example"))),
        ["another audience"] = ("audience", () => Tokens.With(("aud", "other"))),
        ["expired"] = ("expired", () => Tokens.With(("exp", Tokens.InSeconds(-300)))),
        ["never expires"] = ("expired", () => Tokens.With(("exp", Tokens.Absent))),
        ["for later"] = ("not_yet_valid", () => Tokens.With(("nbf", Tokens.InSeconds(300)), ("exp", Tokens.InSeconds(600)))),
        ["organization no UUID"] = ("organization_claim", () => Tokens.With(("org_id", "garbage"))),
        ["nobody's"] = ("subject", () => Tokens.With()),
        ["for one sender"] = ("sender_constrained", () => Tokens.With(("cnf", new { jkt = "thumbprint" }))),
    };

    private const string Header = """{"alg":"HS256","typ":"JWT"}""";

    public static TheoryData<string> Refusals() => [.. RefusedTokens.Keys];

    [Theory]
    [MemberData(nameof(Refusals))]
    public async Task RefusedToken_IsExplainedToTheOperatorAlone(string what)
    {
        var (reason, token) = RefusedTokens[what];
        using var log = new CapturedLog(LogLevel.Information);
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString, configure: builder => builder.Logging.ClearProviders().AddProvider(log).SetMinimumLevel(LogLevel.Trace));

        var answer = await service.GetAccountAsync(_agent, token());

        Assert.Equal((401, """{"success":false,"message":"A valid JWT is required, as 'Authorization: Bearer <token>'"}"""), (answer.Status, answer.Body));
        await Eventually.HoldsAsync(() => log.Lines.Any(line => line.Contains("route=", StringComparison.Ordinal)), TimeSpan.FromSeconds(2));
        Assert.StartsWith($"401 unauthorized reason={reason} caller= ", log.Lines.Single(line => line.Contains("route=", StringComparison.Ordinal)), StringComparison.Ordinal);
        Assert.DoesNotContain(log.Lines, line => line.Contains("other.example", StringComparison.Ordinal) || line.Contains("thumbprint", StringComparison.Ordinal) || line.Contains("   at ", StringComparison.Ordinal));
    }

    [Fact]
    public async Task ServedRequest_SaysHowItsCallerCame()
    {
        using var log = new CapturedLog(LogLevel.Information);
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString, configure: builder => builder.Logging.ClearProviders().AddProvider(log));

        await service.GetAccountAsync(_agent, Tokens.OfOrganization(s_org));
        await service.GetAccountAsync(_membersAgent, Tokens.OfSubject("somebody"));

        await Eventually.HoldsAsync(() => log.Lines.Count(line => line.Contains("route=api", StringComparison.Ordinal)) is 2, TimeSpan.FromSeconds(2));
        Assert.Contains(log.Lines, line => line.Contains("200 none reason= caller=organization", StringComparison.Ordinal));
        Assert.Contains(log.Lines, line => line.Contains("200 none reason= caller=membership", StringComparison.Ordinal));
    }

    private Task<TestService> StartAsync(Dictionary<string, string?> settings) => TestService.StartAsync(fixture.Tables.ServiceConnectionString, settings);

    private string Token(string claims) => Tokens.Sign("""{"alg":"HS256"}""", Merge(claims).Replace("$OTHER", _otherOrg.ToString(), StringComparison.Ordinal));

    private static string Merge(string claims, params string[] more)
    {
        var standard = $"\"iss\":\"{Tokens.Issuer}\",\"aud\":\"{Tokens.Audience}\",\"exp\":{Tokens.InSeconds(300)}";
        var added = more is [var name, var value] ? $",\"{name}\":\"{value}\"" : "";
        var rest = claims.Trim()[1..^1];
        return $"{{{standard}{added}{(rest is "" ? "" : ",")}{rest}}}"
            .Replace("$ORG", s_org.ToString(), StringComparison.Ordinal);
    }
}
