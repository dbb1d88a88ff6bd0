using System.Security.Claims;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Application;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;

namespace CalcomAccounts.Tests.Security;

/// <summary>How long valid tokens are cached, and that nothing else is.</summary>
public sealed class TokenCacheTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private static readonly ClaimsPrincipal s_user = CallerClaims.ToPrincipal(Caller.OfSubject("somebody"));
    private static readonly TrustedIssuer s_issuer = TrustedIssuer.ReadAll(
        new ConfigurationBuilder().AddInMemoryCollection(new Dictionary<string, string?> { [$"{JwtAuthentication.Section}:ValidIssuer"] = Tokens.Issuer }).Build(),
        NullLogger.Instance)[0];

    private static readonly KeySet s_keySet = s_issuer.KeySet;

    private readonly Clock _clock = new();

    [Theory]
    [InlineData(10, 9.9, true)]
    [InlineData(10, 10.1, false)]
    [InlineData(3600, 59.9, true)]
    [InlineData(3600, 60.1, false)]
    [InlineData(0, 0, false)]
    [InlineData(-5, 0, false)] // Valid because of the clock skew.
    public void CachedToken_ExpiresWithTheTokenOrAfterAMinute(double expiresIn, double after, bool remembered)
    {
        var cache = new TokenCache(_clock);
        cache.Add("token", s_keySet, s_user, _clock.Now.AddSeconds(expiresIn));

        _clock.Now = _clock.Now.AddSeconds(after);

        Assert.Equal(remembered ? s_user : null, cache.Find("token"));
    }

    [Theory]
    [InlineData("Token")]
    [InlineData("toke")]
    [InlineData("token ")]
    [InlineData("")]
    public void OtherToken_IsNotFound(string other)
    {
        var cache = new TokenCache(_clock);
        cache.Add("token", s_keySet, s_user, _clock.Now.AddHours(1));

        Assert.Null(cache.Find(other));
        Assert.Same(s_user, cache.Find("token"));
    }

    [Fact]
    public void Token_ValidatedByReplacedKeys_IsForgotten()
    {
        var cache = new TokenCache(_clock);
        var replaced = new KeySet(s_issuer, s_keySet.Issuers, [], Array.Empty<string>().ToLookup(_ => ""));

        cache.Add("token", replaced, s_user, _clock.Now.AddHours(1));

        Assert.Null(cache.Find("token"));
    }

    [Fact]
    public void FullCache_ForgetsOldTokensAndKeepsThoseInUse()
    {
        const int Tokens = TokenCache.Capacity + 10_000;
        var cache = new TokenCache(_clock);
        cache.Add("in use", s_keySet, s_user, _clock.Now.AddHours(1));
        for (var i = 0; i < Tokens; i++)
        {
            cache.Add($"token {i}", s_keySet, s_user, _clock.Now.AddHours(1));
            Assert.Same(s_user, cache.Find("in use"));
        }

        Assert.InRange(Enumerable.Range(0, Tokens).Count(i => cache.Find($"token {i}") is not null), TokenCache.Capacity - 100, TokenCache.Capacity);
    }

    [Fact]
    public void LongToken_IsFoundAsItIs()
    {
        var cache = new TokenCache(_clock);
        var token = new string('a', 20_000);
        cache.Add(token, s_keySet, s_user, _clock.Now.AddHours(1));

        Assert.Same(s_user, cache.Find(token));
        Assert.Null(cache.Find(token[1..]));
        Assert.Null(cache.Find($"{token[1..]}b"));
    }

    [Theory]
    [InlineData(null, 1)]
    [InlineData("true", 1)]
    [InlineData("false", 3)]
    public async Task ValidToken_IsValidatedOnceUnlessCacheIsOffAndInvalidTokenEachTime(string? setting, int validations)
    {
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, new() { ["CalcomAccounts:TokenCache"] = setting });
        var rules = service.Services.GetRequiredService<IReadOnlyList<TrustedIssuer>>()[0].KeySet.Rules;
        var (validate, count) = (rules.AlgorithmValidator, 0);
        rules.AlgorithmValidator = (algorithm, key, token, parameters) =>
        {
            count++;
            return validate(algorithm, key, token, parameters);
        };
        var valid = Tokens.OfOrganization(Guid.NewGuid());
        var refused = Tokens.With(("org_id", "garbage"));

        for (var i = 0; i < 3; i++)
        {
            Assert.Equal(404, (await service.GetAccountAsync(Guid.NewGuid(), valid)).Status);
        }

        Assert.Equal(validations, count);
        for (var i = 0; i < 3; i++)
        {
            Assert.Equal(401, (await service.GetAccountAsync(Guid.NewGuid(), refused)).Status);
        }

        Assert.Equal(validations + 3, count);
    }

    [Fact]
    public async Task CachedTokens_DoNotMixUpCallers()
    {
        var (org, otherOrg) = (Guid.NewGuid(), Guid.NewGuid());
        var agent = await fixture.Tables.AddAgentAsync(org);

        for (var i = 0; i < 3; i++)
        {
            Assert.Equal(200, (await fixture.Service.GetAccountAsync(agent, Tokens.OfOrganization(org))).Status);
            Assert.Equal(404, (await fixture.Service.GetAccountAsync(agent, Tokens.OfOrganization(otherOrg))).Status);
        }
    }

    private sealed class Clock : TimeProvider
    {
        public DateTimeOffset Now { get; set; } = DateTimeOffset.UtcNow;

        public override DateTimeOffset GetUtcNow() => Now;
    }
}
