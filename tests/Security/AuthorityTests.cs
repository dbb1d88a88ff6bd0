using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text.Json;

namespace CalcomAccounts.Tests.Security;

/// <summary>Signing keys from an OpenID Connect authority: only asymmetric algorithms are accepted, and key rotation is followed.</summary>
public sealed class AuthorityTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>, IAsyncLifetime
{
    private static readonly Guid s_org = Guid.NewGuid();

    private readonly RSA _nextRsa = RSA.Create(2048);
    private TestAuthority _authority = null!;
    private TestService _service = null!;
    private Guid _agent;

    public async ValueTask InitializeAsync()
    {
        _authority = await TestAuthority.StartAsync();
        _agent = await fixture.Tables.AddAgentAsync(s_org);
        _service = await StartServiceAsync(_authority.Issuer);
    }

    public async ValueTask DisposeAsync()
    {
        await _service.DisposeAsync();
        await _authority.DisposeAsync();
        _nextRsa.Dispose();
    }

    [Fact]
    public async Task RsaAndEcKeysOfTheAuthority_AreAccepted()
    {
        Assert.Equal(200, await StatusAsync(Rs256("rsa", _authority.Rsa)));
        Assert.Equal(200, await StatusAsync(Token("ES256", "ec", data => _authority.Ec.SignData(data, HashAlgorithmName.SHA256))));
    }

    [Fact]
    public async Task OtherIssuerOrKey_Returns401()
    {
        Assert.Equal(401, await StatusAsync(Rs256("rsa", _nextRsa)));
        Assert.Equal(401, await StatusAsync(Rs256("rsa", _authority.Rsa, issuer: "https://other.example")));
    }

    [Fact]
    public async Task TwoKeysOfOneId_StatedForDifferentAlgorithms_VerifyNeither()
    {
        var next = _nextRsa.ExportParameters(includePrivateParameters: false);
        _authority.Keys.Add(new { kty = "RSA", kid = "shared", alg = "RS256", n = TestAuthority.Encode(_authority.Rsa.ExportParameters(false).Modulus!), e = "AQAB" });
        _authority.Keys.Add(new { kty = "RSA", kid = "shared", alg = "PS256", n = TestAuthority.Encode(next.Modulus!), e = TestAuthority.Encode(next.Exponent!) });

        Assert.Equal(401, await StatusAsync(Rs256("shared", _nextRsa)));
        Assert.Equal(401, await StatusAsync(Rs256("shared", _authority.Rsa)));
    }

    [Fact]
    public async Task SymmetricKeyPublishedByTheAuthority_Returns401()
    {
        var secret = RandomNumberGenerator.GetBytes(32);
        _authority.Keys.Add(new { kty = "oct", kid = "oct", k = TestAuthority.Encode(secret) });

        Assert.Equal(401, await StatusAsync(Token("HS256", "oct", data => HMACSHA256.HashData(secret, data))));
    }

    [Fact]
    public async Task AlgorithmOfAuthorityKey_DoesNotRestrictTheConfiguredKey()
    {
        var settings = TestAuthority.Settings(_authority.Issuer);
        settings["Authentication:Schemes:Bearer:ValidIssuer"] = Tokens.Issuer;
        settings["Authentication:Schemes:Bearer:SigningKeys:0:Issuer"] = Tokens.Issuer;
        settings["Authentication:Schemes:Bearer:SigningKeys:0:Value"] = Convert.ToBase64String(Tokens.Key);
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, settings);
        _authority.Keys.Clear();

        // Without a kid, like the configured key.
        var rsa = _authority.Rsa.ExportParameters(includePrivateParameters: false);
        _authority.Keys.Add(new { kty = "RSA", alg = "RS256", n = TestAuthority.Encode(rsa.Modulus!), e = TestAuthority.Encode(rsa.Exponent!) });

        Assert.Equal(200, (await service.GetAccountAsync(_agent, Tokens.OfOrganization(s_org))).Status);
    }

    [Theory]
    [InlineData("true")]
    [InlineData("false")]
    public async Task KeyRotation_IsPickedUpWithoutRestart(string tokenCache)
    {
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString, new(TestAuthority.Settings(_authority.Issuer)) { ["CalcomAccounts:TokenCache"] = tokenCache });
        var (old, next) = (Rs256("rsa", _authority.Rsa), Rs256("next", _nextRsa));
        Assert.Equal(200, (await service.GetAccountAsync(_agent, old)).Status);

        _authority.Keys[0] = TestAuthority.Jwk("next", _nextRsa);
        await EventuallyAsync(service, 200, next);
        await EventuallyAsync(service, 401, old);
        Assert.Equal(200, (await service.GetAccountAsync(_agent, next)).Status);
    }

    [Fact]
    public async Task AuthorityUnreachable_Returns500WithinFiveSecondsAndRecovers()
    {
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        var url = $"http://{silent.LocalEndpoint}";
        await using var service = await StartServiceAsync(url);
        var token = Rs256("rsa", _authority.Rsa, url);

        var started = Stopwatch.GetTimestamp();
        Assert.Equal(500, (await service.GetAccountAsync(_agent, token)).Status);
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 5);
        started = Stopwatch.GetTimestamp();
        Assert.Equal(401, (await service.GetAccountAsync(_agent, token: null)).Status);
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 1);

        // Endpoints that need no token do not validate one.
        foreach (var (method, path, status) in new[]
        {
            ("GET", "/health/live", 200), ("GET", "/health/ready", 503), ("GET", "/swagger/v1/swagger.json", 200), ("GET", "/nowhere", 404),
            ("PUT", TestService.AccountPath(_agent.ToString()), 405),
        })
        {
            Assert.Equal((path, status), (path, (await service.SendAsync(method, path, token)).Status));
        }

        silent.Stop();
        Assert.Equal(500, (await service.GetAccountAsync(_agent, token)).Status);

        await using var authority = await TestAuthority.StartAsync(url);
        Assert.Equal(200, (await service.GetAccountAsync(_agent, Rs256("rsa", authority.Rsa, url))).Status);
    }

    private Task<TestService> StartServiceAsync(string authority) =>
        TestService.StartAsync(fixture.Tables.ServiceConnectionString, TestAuthority.Settings(authority));

    private async Task<int> StatusAsync(string token) => (await _service.GetAccountAsync(_agent, token)).Status;

    private Task EventuallyAsync(TestService service, int status, string token) => Eventually.HoldsAsync(
        async () => (await service.GetAccountAsync(_agent, token)).Status == status, TimeSpan.FromSeconds(10));

    private string Rs256(string kid, RSA key, string? issuer = null) =>
        Token("RS256", kid, data => TestAuthority.SignRs256(key, data), issuer);

    private string Token(string algorithm, string kid, Func<byte[], byte[]> sign, string? issuer = null)
    {
        var header = JsonSerializer.Serialize(new { alg = algorithm, kid });
        var payload = JsonSerializer.Serialize(
            new { iss = issuer ?? _authority.Issuer, aud = Tokens.Audience, exp = Tokens.InSeconds(300), org_id = s_org });
        return Tokens.Sign(header, payload, hmac: (_, data) => sign(data));
    }
}
