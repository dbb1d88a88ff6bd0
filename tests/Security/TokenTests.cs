using System.Security.Cryptography;

namespace CalcomAccounts.Tests.Security;

/// <summary>Which tokens are accepted, and the response to all others.</summary>
public sealed class TokenTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string Header = """{"alg":"HS256","typ":"JWT"}""";
    private static readonly Guid s_org = Guid.NewGuid();

    private static string Payload(string more = "", string? issuer = $"\"iss\":\"{Tokens.Issuer}\",", string? audience = $"\"aud\":\"{Tokens.Audience}\",", string? expiry = null) =>
        $$"""{{{issuer}}{{audience}}{{expiry ?? $"\"exp\":{Tokens.InSeconds(300)},"}}"org_id":"{{s_org}}"{{more}}}""";

    private static readonly Dictionary<string, Func<string>> s_accepted = new()
    {
        ["plain"] = () => Tokens.Sign(Header, Payload()),
        ["expired within the clock skew"] = () => Tokens.Sign(Header, Payload(expiry: $"\"exp\":{Tokens.InSeconds(-25)},")),
        ["valid soon, within the clock skew"] = () => Tokens.Sign(Header, Payload($",\"nbf\":{Tokens.InSeconds(25)}")),
        ["several audiences, ours among them"] = () => Tokens.Sign(Header, Payload(audience: $"\"aud\":[\"other\",\"{Tokens.Audience}\"],")),
        ["a kid nobody knows"] = () => Tokens.Sign("""{"alg":"HS256","kid":"unknown"}""", Payload()),
        ["no typ"] = () => Tokens.Sign("""{"alg":"HS256"}""", Payload()),
        ["organization claim in another case beside ours"] = () => Tokens.Sign(Header, Payload(",\"ORG_ID\":\"garbage\"")),
    };

    private static readonly Dictionary<string, Func<string>> s_refused = new()
    {
        ["another key"] = () => Tokens.Sign(Header, Payload(), RandomNumberGenerator.GetBytes(32)),
        ["expired beyond the clock skew"] = () => Tokens.Sign(Header, Payload(expiry: $"\"exp\":{Tokens.InSeconds(-35)},")),
        ["not valid before the clock skew has passed"] = () => Tokens.Sign(Header, Payload($",\"nbf\":{Tokens.InSeconds(35)}")),
        ["organization claim in another case only"] = () => Tokens.With(("Org_Id", s_org.ToString())),
        ["subject claim in another case only"] = () => Tokens.With(("SUB", "somebody")),
        ["subject that is an array"] = () => Tokens.With(("sub", new[] { "somebody" })),
    };

    public static TheoryData<string> Accepted() => [.. s_accepted.Keys];

    public static TheoryData<string> Refused() => [.. s_refused.Keys];

    [Theory]
    [MemberData(nameof(Accepted))]
    public async Task AcceptableToken_Returns200(string token)
    {
        var agent = await fixture.Tables.AddAgentAsync(s_org);

        Assert.Equal(200, (await fixture.Service.GetAccountAsync(agent, s_accepted[token]())).Status);
    }

    [Theory]
    [MemberData(nameof(Refused))]
    public async Task InvalidToken_Returns401(string token)
    {
        var agent = await fixture.Tables.AddAgentAsync(s_org);

        AssertUnauthorized("Bearer error=\"invalid_token\"", await fixture.Service.GetAccountAsync(agent, s_refused[token]()));
    }

    [Theory]
    [InlineData("Authorization", null)]
    [InlineData("Authorization", "")]
    [InlineData("Authorization", "Bearer")]
    [InlineData("Authorization", "Bearer ")]
    [InlineData("Authorization", "Basic {0}")]
    [InlineData("Authorization", "Token {0}")]
    [InlineData("Authorization", "{0}")]
    [InlineData("X-Api-Key", "{0}")]
    [InlineData("Proxy-Authorization", "Bearer {0}")]
    [InlineData("Cookie", "access_token={0}; Authorization=Bearer {0}")]
    public async Task MissingOrMisplacedToken_Returns401(string header, string? value)
    {
        var token = Tokens.OfOrganization(s_org);

        AssertUnauthorized("Bearer", await SendAsync((header, value?.Replace("{0}", token, StringComparison.Ordinal))));
    }

    [Theory]
    [InlineData("?access_token={0}")]
    [InlineData("?token={0}&authorization=Bearer%20{0}")]
    public async Task TokenInTheQuery_Returns401(string query)
    {
        var target = TestService.AccountPath(Guid.NewGuid().ToString()) + query.Replace("{0}", Tokens.OfOrganization(s_org), StringComparison.Ordinal);

        AssertUnauthorized("Bearer", await fixture.Service.SendAsync("GET", target));
    }

    [Theory]
    [InlineData("bearer")]
    [InlineData("BEARER")]
    [InlineData("beArer")]
    public async Task BearerScheme_InAnyCase_IsAccepted(string scheme)
    {
        var answer = await SendAsync(("Authorization", $"{scheme} {Tokens.OfOrganization(s_org)}"));

        Assert.Equal(404, answer.Status);
    }

    [Fact]
    public async Task SubjectWithNulCharacter_Returns404()
    {
        var agent = await fixture.Tables.AddAgentAsync(s_org);

        Assert.Equal(404, (await fixture.Service.GetAccountAsync(agent, Tokens.OfSubject("a\0b"))).Status);
    }

    [Fact]
    public async Task ConfiguredOrganizationClaim_IsUsed()
    {
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString, new() { ["CalcomAccounts:OrganizationClaim"] = "https://platform.example/org" });
        var agent = await fixture.Tables.AddAgentAsync(s_org);

        Assert.Equal(200, (await service.GetAccountAsync(agent, Tokens.With(("https://platform.example/org", s_org)))).Status);
        Assert.Equal(401, (await service.GetAccountAsync(agent, Tokens.With(("org_id", s_org)))).Status);
    }

    [Fact]
    public async Task SigningKey_IsAcceptedOnlyForItsIssuer()
    {
        const string Second = "https://second.example";
        var secondKey = RandomNumberGenerator.GetBytes(64);
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, new()
        {
            ["Authentication:Schemes:Bearer:ValidIssuers:0"] = Second,
            ["Authentication:Schemes:Bearer:SigningKeys:1:Issuer"] = Second,
            ["Authentication:Schemes:Bearer:SigningKeys:1:Value"] = Convert.ToBase64String(secondKey),
        });
        var agent = await fixture.Tables.AddAgentAsync(s_org);
        var ofSecond = Payload(issuer: $"\"iss\":\"{Second}\",");

        Assert.Equal(200, (await service.GetAccountAsync(agent, Tokens.Sign(Header, Payload()))).Status);
        Assert.Equal(200, (await service.GetAccountAsync(agent, Tokens.Sign(Header, ofSecond, secondKey))).Status);
        Assert.Equal(401, (await service.GetAccountAsync(agent, Tokens.Sign(Header, ofSecond))).Status);
        Assert.Equal(401, (await service.GetAccountAsync(agent, Tokens.Sign(Header, Payload(), secondKey))).Status);
    }

    [Fact]
    public async Task TwoKeysOfOneIssuer_AreBothAccepted()
    {
        var next = RandomNumberGenerator.GetBytes(32);
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, new()
        {
            ["Authentication:Schemes:Bearer:SigningKeys:1:Issuer"] = Tokens.Issuer,
            ["Authentication:Schemes:Bearer:SigningKeys:1:Value"] = Convert.ToBase64String(next),
        });
        var agent = await fixture.Tables.AddAgentAsync(s_org);

        Assert.Equal(200, (await service.GetAccountAsync(agent, Tokens.Sign(Header, Payload()))).Status);
        Assert.Equal(200, (await service.GetAccountAsync(agent, Tokens.Sign(Header, Payload(), next))).Status);
    }

    private Task<Answer> SendAsync(params (string Name, string? Value)[] headers) =>
        fixture.Service.SendAsync("GET", TestService.AccountPath(Guid.NewGuid().ToString()), token: null, request =>
        {
            foreach (var (name, value) in headers.Where(header => header.Value is not null))
            {
                request.Headers.TryAddWithoutValidation(name, value);
            }
        });

    private static void AssertUnauthorized(string challenge, Answer answer)
    {
        Assert.Equal(401, answer.Status);
        Assert.Equal(challenge, answer.Header("WWW-Authenticate"));
        Assert.Equal("""{"success":false,"message":"A valid JWT is required, as 'Authorization: Bearer <token>'"}""", answer.Body);
        Assert.Equal("application/json; charset=utf-8", answer.Header("Content-Type"));
    }
}
