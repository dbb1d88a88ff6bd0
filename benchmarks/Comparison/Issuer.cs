using System.Buffers.Text;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

namespace CalcomAccounts.Benchmarks;

/// <summary>Signs tokens, by a shared key or as an OpenID Connect issuer on loopback.</summary>
internal sealed class Issuer : IAsyncDisposable
{
    private const string Audience = "benchmark";
    private readonly byte[] _key = RandomNumberGenerator.GetBytes(32);
    private readonly RSA _rsa = RSA.Create(2048);
    private readonly ECDsa _ecdsa = ECDsa.Create(ECCurve.NamedCurves.nistP256);
    private readonly WebApplication _app;
    private readonly long _expires = DateTimeOffset.UtcNow.AddHours(12).ToUnixTimeSeconds();

    private Issuer(WebApplication app) => _app = app;

    private string Url => _app.Urls.First();

    public static async Task<Issuer> StartAsync()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        var app = builder.Build();
        app.Urls.Add("http://127.0.0.1:0");
        var issuer = new Issuer(app);
        var rsa = issuer._rsa.ExportParameters(includePrivateParameters: false);
        var point = issuer._ecdsa.ExportParameters(includePrivateParameters: false).Q;
        app.MapGet("/{algorithm}/.well-known/openid-configuration", (string algorithm) => Results.Json(new { issuer = issuer.Url, jwks_uri = $"{issuer.Url}/{algorithm}/keys" }));
        app.MapGet("/RS256/keys", () => Results.Json(new
        {
            keys = new[]
            {
                new { kty = "RSA", kid = "RS256", use = "sig", n = Base64Url.EncodeToString(rsa.Modulus), e = Base64Url.EncodeToString(rsa.Exponent) },
            },
        }));
        app.MapGet("/ES256/keys", () => Results.Json(new
        {
            keys = new[]
            {
                new { kty = "EC", kid = "ES256", use = "sig", crv = "P-256", x = Base64Url.EncodeToString(point.X), y = Base64Url.EncodeToString(point.Y) },
            },
        }));
        await app.StartAsync();
        return issuer;
    }

    /// <summary>What makes a JwtBearer section trust it.</summary>
    public Dictionary<string, string> Settings(string algorithm) => algorithm is "HS256"
        ? new()
        {
            ["ValidIssuer"] = Url,
            ["ValidAudience"] = Audience,
            ["SigningKeys__0__Issuer"] = Url,
            ["SigningKeys__0__Value"] = Convert.ToBase64String(_key),
        }
        : new()
        {
            ["Authority"] = $"{Url}/{algorithm}",
            ["RequireHttpsMetadata"] = "false",
            ["ValidAudience"] = Audience,
        };

    /// <param name="algorithm">HS256, RS256 or ES256.</param>
    /// <param name="orgId">The organization that it names.</param>
    /// <param name="number">Tells tokens of one organization apart.</param>
    public string Sign(string algorithm, Guid orgId, int number)
    {
        var header = algorithm is "HS256" ? """{"alg":"HS256","typ":"JWT"}""" : $$"""{"alg":"{{algorithm}}","typ":"JWT","kid":"{{algorithm}}"}""";
        var payload = JsonSerializer.Serialize(new { iss = Url, aud = Audience, sub = "somebody", org_id = orgId, exp = _expires, iat = _expires - 43_200, jti = $"{number:D6}" });
        var content = $"{Encode(header)}.{Encode(payload)}";
        var bytes = Encoding.ASCII.GetBytes(content);
        var signature = algorithm switch
        {
            "HS256" => HMACSHA256.HashData(_key, bytes),
            "RS256" => _rsa.SignData(bytes, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1),
            "ES256" => _ecdsa.SignData(bytes, HashAlgorithmName.SHA256),
            _ => throw new ArgumentException($"there are no tokens of {algorithm}", nameof(algorithm)),
        };
        return $"{content}.{Base64Url.EncodeToString(signature)}";
    }

    public async ValueTask DisposeAsync()
    {
        await _app.DisposeAsync();
        _rsa.Dispose();
        _ecdsa.Dispose();
    }

    private static string Encode(string json) => Base64Url.EncodeToString(Encoding.UTF8.GetBytes(json));
}
