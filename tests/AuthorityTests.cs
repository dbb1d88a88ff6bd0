using System.Buffers.Text;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests;

/// <summary>Keys from an OpenID Connect authority: its asymmetric algorithms and nothing else, and its keys as they are now.</summary>
[Collection(ServiceFixture.Name)]
public sealed class AuthorityTests(ServiceFixture fixture) : IAsyncLifetime
{
    private static readonly Guid s_org = Guid.NewGuid();

    private readonly RSA _rsa = RSA.Create(2048);
    private readonly RSA _nextRsa = RSA.Create(2048);
    private readonly ECDsa _ec = ECDsa.Create(ECCurve.NamedCurves.nistP256);
    private readonly List<object> _keys = [];
    private WebApplication _authority = null!;
    private TestService _service = null!;
    private Guid _agent;

    private string Issuer => _authority.Urls.First();

    public async Task InitializeAsync()
    {
        _keys.AddRange([Jwk("rsa", _rsa), new { kty = "EC", kid = "ec", use = "sig", crv = "P-256", x = Encode(_ec.ExportParameters(false).Q.X!), y = Encode(_ec.ExportParameters(false).Q.Y!) }]);

        _authority = await StartAuthorityAsync("http://127.0.0.1:0");
        _agent = await fixture.Tables.AddAgentAsync(s_org);
        _service = await StartServiceAsync(Issuer);
    }

    public async Task DisposeAsync()
    {
        await _service.DisposeAsync();
        await _authority.DisposeAsync();
    }

    [Fact]
    public async Task TheAuthoritysKeysAreAccepted()
    {
        Assert.Equal(200, await StatusAsync(Rs256("rsa", _rsa)));
        Assert.Equal(200, await StatusAsync(Token("ES256", "ec", data => _ec.SignData(data, HashAlgorithmName.SHA256))));
    }

    [Fact]
    public async Task AnotherIssuerOrKeyIsRefused()
    {
        Assert.Equal(401, await StatusAsync(Rs256("rsa", _nextRsa)));
        Assert.Equal(401, await StatusAsync(Rs256("rsa", _rsa, issuer: "https://other.example")));
    }

    [Fact]
    public async Task AnAlgorithmThatTheKeyIsNotForIsRefused() => Assert.Equal(401, await StatusAsync(
        Token("PS256", "rsa", data => _rsa.SignData(data, HashAlgorithmName.SHA256, RSASignaturePadding.Pss))));

    [Fact]
    public async Task APublicKeyNeverVerifiesAnHmac()
    {
        foreach (var secret in new[]
        {
            Encoding.ASCII.GetBytes(_rsa.ExportSubjectPublicKeyInfoPem()), _rsa.ExportSubjectPublicKeyInfo(), _rsa.ExportRSAPublicKey(),
            _rsa.ExportParameters(false).Modulus!, JsonSerializer.SerializeToUtf8Bytes(Jwk("rsa", _rsa)),
        })
        {
            Assert.Equal(401, await StatusAsync(Token("HS256", "rsa", data => HMACSHA256.HashData(secret, data))));
        }
    }

    [Fact]
    public async Task ASymmetricKeyThatTheAuthorityPublishesIsNotAccepted()
    {
        var secret = RandomNumberGenerator.GetBytes(32);
        _keys.Add(new { kty = "oct", kid = "oct", k = Encode(secret) });

        Assert.Equal(401, await StatusAsync(Token("HS256", "oct", data => HMACSHA256.HashData(secret, data))));
    }

    [Fact]
    public async Task ANewKeyWorksAndAWithdrawnOneStops_WithoutARestart()
    {
        Assert.Equal(200, await StatusAsync(Rs256("rsa", _rsa)));

        _keys[0] = Jwk("next", _nextRsa);
        await EventuallyAsync(200, Rs256("next", _nextRsa));
        await EventuallyAsync(401, Rs256("rsa", _rsa));
        Assert.Equal(200, await StatusAsync(Rs256("next", _nextRsa)));
    }

    [Fact]
    public async Task WithoutTheAuthoritysKeysATokenIsNotRefusedButTheRequestFails_WithinFiveSeconds()
    {
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        var url = $"http://{silent.LocalEndpoint}";
        await using var service = await StartServiceAsync(url);
        var token = Rs256("rsa", _rsa, url);

        var started = Stopwatch.GetTimestamp();
        Assert.Equal(500, (await service.GetAccountAsync(_agent, token)).Status);
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 5);
        Assert.Equal(401, (await service.GetAccountAsync(_agent, token: null)).Status);

        silent.Stop();
        Assert.Equal(500, (await service.GetAccountAsync(_agent, token)).Status);

        await using var authority = await StartAuthorityAsync(url);
        Assert.Equal(200, (await service.GetAccountAsync(_agent, token)).Status);
    }

    private async Task<WebApplication> StartAuthorityAsync(string url)
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        var authority = builder.Build();
        authority.Urls.Add(url);
        authority.MapGet("/.well-known/openid-configuration", (HttpRequest request) =>
            Results.Json(new { issuer = $"http://{request.Host}", jwks_uri = $"http://{request.Host}/keys" }));
        authority.MapGet("/keys", () => Results.Json(new { keys = _keys }));
        await authority.StartAsync();
        return authority;
    }

    private Task<TestService> StartServiceAsync(string authority) => TestService.StartAsync(fixture.Tables.ServiceConnectionString, new()
    {
        ["Authentication:Schemes:Bearer:Authority"] = authority,
        ["Authentication:Schemes:Bearer:RequireHttpsMetadata"] = "false",
        ["Authentication:Schemes:Bearer:RefreshInterval"] = "00:00:01",
        ["Authentication:Schemes:Bearer:ValidIssuer"] = null,
        ["Authentication:Schemes:Bearer:SigningKeys:0:Issuer"] = null,
        ["Authentication:Schemes:Bearer:SigningKeys:0:Value"] = null,
    });

    private async Task<int> StatusAsync(string token) => (await _service.GetAccountAsync(_agent, token)).Status;

    private async Task EventuallyAsync(int status, string token)
    {
        for (var i = 0; i < 100 && await StatusAsync(token) != status; i++)
        {
            await Task.Delay(100);
        }

        Assert.Equal(status, await StatusAsync(token));
    }

    private string Rs256(string kid, RSA key, string? issuer = null) =>
        Token("RS256", kid, data => key.SignData(data, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1), issuer);

    private string Token(string algorithm, string kid, Func<byte[], byte[]> sign, string? issuer = null)
    {
        var header = JsonSerializer.Serialize(new { alg = algorithm, kid });
        var payload = JsonSerializer.Serialize(
            new { iss = issuer ?? Issuer, aud = Tokens.Audience, exp = Tokens.InSeconds(300), org_id = s_org });
        return Tokens.Sign(header, payload, hmac: (_, data) => sign(data));
    }

    private static object Jwk(string kid, RSA key)
    {
        var parameters = key.ExportParameters(false);
        return new { kty = "RSA", kid, use = "sig", alg = "RS256", n = Encode(parameters.Modulus!), e = Encode(parameters.Exponent!) };
    }

    private static string Encode(byte[] bytes) => Base64Url.EncodeToString(bytes);
}
