using System.Diagnostics;
using System.Security.Cryptography;
using System.Text.Json;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Security;

/// <summary>docs/security.md: keys that an authority rotates, withdraws or can't be asked for.</summary>
public sealed class KeyRotationTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>, IAsyncLifetime, IDisposable
{
    private static readonly Guid s_org = Guid.NewGuid();

    private readonly RSA _nextRsa = RSA.Create(2048);
    private readonly RSA _forger = RSA.Create(2048);
    private readonly CapturedLog _log = new(LogLevel.Information);
    private TestAuthority _authority = null!;
    private TestService _service = null!;
    private Guid _agent;

    private string Known => Token(_authority, "rsa", _authority.Rsa);

    private string Next => Token(_authority, "next", _nextRsa);

    public async ValueTask InitializeAsync()
    {
        _authority = await TestAuthority.StartAsync();
        _agent = await fixture.Tables.AddAgentAsync(s_org);
        _service = await StartAsync(TestAuthority.Settings(_authority.Issuer));
        await BecomesReadyAsync();
    }

    public async ValueTask DisposeAsync()
    {
        await _service.DisposeAsync();
        await _authority.DisposeAsync();
        Dispose();
    }

    public void Dispose()
    {
        _nextRsa.Dispose();
        _forger.Dispose();
        _log.Dispose();
    }

    [Theory]
    [InlineData(true, 200)]
    [InlineData(false, 401)]
    public async Task Rotation_FirstTokenOfTheNewKey_IsAccepted(bool overlaps, int statusOfOld)
    {
        Assert.Equal(200, await StatusAsync(Known));
        if (!overlaps)
        {
            _authority.Keys.RemoveAt(0);
        }

        _authority.Keys.Add(TestAuthority.Jwk("next", _nextRsa));

        Assert.Equal(200, await StatusAsync(Next));
        Assert.Equal(statusOfOld, await StatusAsync(Known));
    }

    [Fact]
    public async Task Rotation_OfKeysWithoutIds_FirstTokenOfTheNewKeyIsAccepted()
    {
        var rsa = _nextRsa.ExportParameters(includePrivateParameters: false);
        _authority.Keys.Clear();
        _authority.Keys.Add(new { kty = "RSA", n = TestAuthority.Encode(rsa.Modulus!), e = TestAuthority.Encode(rsa.Exponent!) });

        Assert.Equal(200, await StatusAsync(Token(_authority, kid: null, _nextRsa)));
    }

    [Fact]
    public async Task Rotation_DuringAFloodOfForgedTokens_CostsValidTokensNothing()
    {
        var before = _authority.Requests;
        var started = Stopwatch.GetTimestamp();
        using var stop = new CancellationTokenSource();
        var statuses = new System.Collections.Concurrent.ConcurrentBag<int>();
        var flood = Task.WhenAll(Enumerable.Range(0, 60).Select(_ => Task.Run(async () =>
        {
            while (!stop.IsCancellationRequested)
            {
                statuses.Add(await StatusAsync(Token(_authority, $"{Guid.NewGuid()}", _forger)));
            }
        })));

        await Task.Delay(1000);
        _authority.Keys.Add(TestAuthority.Jwk("next", _nextRsa));
        var sent = Stopwatch.GetTimestamp();
        Assert.Equal(200, await StatusAsync(Next));
        Assert.InRange(Stopwatch.GetElapsedTime(sent).TotalSeconds, 0, 3);
        for (var i = 0; i < 100; i++)
        {
            sent = Stopwatch.GetTimestamp();
            Assert.Equal(200, await StatusAsync(Known));
            Assert.InRange(Stopwatch.GetElapsedTime(sent).TotalSeconds, 0, 0.5);
        }

        await stop.CancelAsync();
        await flood;

        // The first five, and one a second: RefreshInterval.
        Assert.InRange((_authority.Requests - before) / 2, 1, 5 + 1 + (int)Stopwatch.GetElapsedTime(started).TotalSeconds);
        Assert.All(statuses, status => Assert.Equal(401, status));
    }

    public static TheoryData<string> Disturbances => ["error", "hangs", "html", "no keys", "no document"];

    [Theory]
    [MemberData(nameof(Disturbances))]
    public async Task UnknownKey_WhileTheAuthorityIsDisturbed_Is500AndKnownKeysStayValid(string disturbance)
    {
        _authority.Keys.Add(TestAuthority.Jwk("next", _nextRsa));
        _authority.Disturbance = disturbance switch
        {
            "error" => context => SendAsync(context, 500, ""),
            "hangs" => context => Task.Delay(10_000, context.RequestAborted),
            "html" => context => SendAsync(context, 200, "<html>"),
            "no keys" => context => SendAsync(context, 200, $$"""{"issuer":"{{_authority.Issuer}}","jwks_uri":"{{_authority.Issuer}}/keys","keys":[]}"""),
            _ => context => SendAsync(context, 200, "{}"),
        };

        var started = Stopwatch.GetTimestamp();
        var answer = await _service.GetAccountAsync(_agent, Next);
        Assert.Equal((500, true), (answer.Status, answer.Body.Contains("INTERNAL_ERROR", StringComparison.Ordinal)));
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 5);

        started = Stopwatch.GetTimestamp();
        Assert.Equal(200, await StatusAsync(Known));
        Assert.Equal(200, (await _service.SendAsync("GET", "/health/ready")).Status);
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 1);

        _authority.Disturbance = null;
        Assert.Equal(200, await StatusAsync(Next));
    }

    [Fact]
    public async Task Refreshes_ThatFailAndSucceedAgain_AreToldOnceEach()
    {
        _authority.Disturbance = context => SendAsync(context, 500, "told to nobody");
        for (var i = 0; i < 3; i++)
        {
            Assert.Equal(500, await StatusAsync(Next));
        }

        _authority.Disturbance = null;
        Assert.Equal(401, await StatusAsync(Next));

        // A failed request has one line, without a stack trace.
        Assert.Equal(4, _log.Lines.Count(line => line.Contains("route=api", StringComparison.Ordinal)));
        Assert.DoesNotContain(_log.Lines, line => line.Contains("   at ", StringComparison.Ordinal));
        var told = _log.Lines.Where(line => line.StartsWith("The keys of", StringComparison.Ordinal)).ToList();
        Assert.Equal(2, told.Count);
        Assert.Contains("can't be read: it answers with something else", told[0], StringComparison.Ordinal);
        Assert.Contains("can be read again", told[1], StringComparison.Ordinal);
    }

    [Fact]
    public async Task WithdrawnKey_IsRefusedAtTheNextRefresh()
    {
        await using var service = await StartAsync(new(TestAuthority.Settings(_authority.Issuer))
        {
            ["Authentication:Schemes:Bearer:AutomaticRefreshInterval"] = "00:00:01",
        });
        await Eventually.HoldsAsync(async () => (await service.GetAccountAsync(_agent, Known)).Status is 200, TimeSpan.FromSeconds(5));

        _authority.Keys.RemoveAt(0);

        await Eventually.HoldsAsync(async () => (await service.GetAccountAsync(_agent, Known)).Status is 401, TimeSpan.FromSeconds(5));
    }

    [Fact]
    public async Task Readiness_UntilTheAuthorityIsReached_IsFalse()
    {
        await using var late = await TestAuthority.StartAsync();
        late.Disturbance = context => SendAsync(context, 404, "");
        await using var service = await StartAsync(TestAuthority.Settings(late.Issuer));

        Assert.Equal(503, (await service.SendAsync("GET", "/health/ready")).Status);
        Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
        Assert.Equal(500, (await service.GetAccountAsync(_agent, Token(late, "rsa", late.Rsa))).Status);

        late.Disturbance = null;
        await Eventually.HoldsAsync(async () => (await service.SendAsync("GET", "/health/ready")).Status is 200, TimeSpan.FromSeconds(5));
    }

    [Fact]
    public async Task Authorities_EachKey_ValidatesTokensOfItsOwnIssuerOnly()
    {
        await using var other = await TestAuthority.StartAsync();
        await using var service = await StartAsync(new(TestAuthority.Settings(_authority.Issuer))
        {
            ["CalcomAccounts:Authorities:0:Authority"] = other.Issuer,
            ["CalcomAccounts:Authorities:0:RequireHttpsMetadata"] = "false",
            ["CalcomAccounts:Authorities:0:ValidAudience"] = Tokens.Audience,
            ["CalcomAccounts:Authorities:1:ValidIssuer"] = Tokens.Issuer,
            ["CalcomAccounts:Authorities:1:ValidAudience"] = Tokens.Audience,
            ["CalcomAccounts:Authorities:1:SigningKeys:0:Value"] = Convert.ToBase64String(Tokens.Key),
        });

        foreach (var (status, token) in new[]
        {
            (200, Known), (200, Token(other, "rsa", other.Rsa)), (200, Tokens.OfOrganization(s_org)),
            (401, Token(_authority, "rsa", other.Rsa)), (401, Token(other, "rsa", _authority.Rsa)), (401, Tokens.With(("iss", other.Issuer), ("org_id", $"{s_org}"))),
        })
        {
            Assert.Equal(status, (await service.GetAccountAsync(_agent, token)).Status);
        }
    }

    [Fact]
    public async Task Authorities_ThatNameTheSameIssuer_AreBothRefused()
    {
        await using var impostor = await TestAuthority.StartAsync();
        impostor.Disturbance = context => context.Request.Path == "/keys"
            ? SendAsync(context, 200, JsonSerializer.Serialize(new { keys = new[] { TestAuthority.Jwk("impostor", _forger) } }))
            : SendAsync(context, 200, JsonSerializer.Serialize(new { issuer = _authority.Issuer, jwks_uri = $"{impostor.Issuer}/keys" }));
        var settings = new Dictionary<string, string?>(TestAuthority.Settings(_authority.Issuer))
        {
            ["CalcomAccounts:Authorities:0:Authority"] = impostor.Issuer,
            ["CalcomAccounts:Authorities:0:RequireHttpsMetadata"] = "false",
            ["CalcomAccounts:Authorities:0:ValidAudience"] = Tokens.Audience,
        };
        await using var service = await StartAsync(settings);
        await Eventually.HoldsAsync(async () => (await service.SendAsync("GET", "/health/ready")).Status is 200, TimeSpan.FromSeconds(5));

        Assert.Equal(401, (await service.GetAccountAsync(_agent, Token(_authority, "impostor", _forger))).Status);
        Assert.Equal(401, (await service.GetAccountAsync(_agent, Known)).Status);

        // Unless one of them is configured to be it.
        settings["Authentication:Schemes:Bearer:ValidIssuer"] = _authority.Issuer;
        await using var configured = await StartAsync(settings);
        Assert.Equal(401, (await configured.GetAccountAsync(_agent, Token(_authority, "impostor", _forger))).Status);
        Assert.Equal(200, (await configured.GetAccountAsync(_agent, Known)).Status);
    }

    private static Task SendAsync(HttpContext context, int status, string body)
    {
        context.Response.StatusCode = status;
        return context.Response.WriteAsync(body);
    }

    private Task<TestService> StartAsync(Dictionary<string, string?> settings) => TestService.StartAsync(
        fixture.Tables.ServiceConnectionString, settings, builder => builder.Logging.AddProvider(_log));

    private Task BecomesReadyAsync() => Eventually.HoldsAsync(
        async () => (await _service.SendAsync("GET", "/health/ready")).Status is 200, TimeSpan.FromSeconds(5));

    private async Task<int> StatusAsync(string token) => (await _service.GetAccountAsync(_agent, token)).Status;

    private static string Token(TestAuthority authority, string? kid, RSA key)
    {
        var payload = JsonSerializer.Serialize(new { iss = authority.Issuer, aud = Tokens.Audience, exp = Tokens.InSeconds(300), org_id = s_org });
        var header = kid is null ? """{"alg":"RS256"}""" : JsonSerializer.Serialize(new { alg = "RS256", kid });
        return Tokens.Sign(header, payload, hmac: (_, data) => TestAuthority.SignRs256(key, data));
    }
}
