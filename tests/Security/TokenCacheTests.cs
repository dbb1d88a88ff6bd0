using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Application;
using Microsoft.AspNetCore.Authentication.JwtBearer;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;

namespace CalcomAccounts.Tests.Security;

/// <summary>How long valid tokens are cached, and that nothing else is.</summary>
public sealed class TokenCacheTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private static readonly Caller s_caller = Caller.OfSubject("somebody");
    private static readonly object s_keySet = new();

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
        cache.Add("token", s_keySet, s_caller, _clock.Now.AddSeconds(expiresIn));

        _clock.Now = _clock.Now.AddSeconds(after);

        Assert.Equal(remembered ? s_caller : null, cache.Find("token", s_keySet));
    }

    [Theory]
    [InlineData("Token")]
    [InlineData("toke")]
    [InlineData("token ")]
    [InlineData("")]
    public void OtherToken_IsNotFound(string other)
    {
        var cache = new TokenCache(_clock);
        cache.Add("token", s_keySet, s_caller, _clock.Now.AddHours(1));

        Assert.Null(cache.Find(other, s_keySet));
        Assert.Same(s_caller, cache.Find("token", s_keySet));
    }

    [Fact]
    public void ChangedKeySet_ClearsTheCache()
    {
        var cache = new TokenCache(_clock);
        cache.Add("token", s_keySet, s_caller, _clock.Now.AddHours(1));

        Assert.Null(cache.Find("token", new object()));
        Assert.Null(cache.Find("token", s_keySet));

        // Validated with a key set that has been replaced meanwhile.
        cache.Find("token", null);
        cache.Add("token", s_keySet, s_caller, _clock.Now.AddHours(1));
        Assert.Null(cache.Find("token", null));
    }

    [Fact]
    public void Cache_HoldsAtMostTenThousandTokens()
    {
        var cache = new TokenCache(_clock);
        for (var i = 0; i < 12_000; i++)
        {
            cache.Add($"token {i}", s_keySet, s_caller, _clock.Now.AddHours(1));
        }

        Assert.InRange(Enumerable.Range(0, 12_000).Count(i => cache.Find($"token {i}", s_keySet) is not null), 5_000, 10_000);
    }

    [Theory]
    [InlineData(null, 1)]
    [InlineData("true", 1)]
    [InlineData("false", 3)]
    public async Task ValidToken_IsValidatedOnceUnlessCacheIsOffAndInvalidTokenEachTime(string? setting, int validations)
    {
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, new() { ["CalcomAccounts:TokenCache"] = setting });
        var rules = service.Services.GetRequiredService<IOptionsMonitor<JwtBearerOptions>>().Get(JwtBearerDefaults.AuthenticationScheme).TokenValidationParameters;
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
