using System.Buffers.Text;
using System.Security.Cryptography;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Support.Authentication;

/// <summary>An OpenID Connect issuer on loopback with an RSA and an elliptic curve key, whose published keys a test may change.</summary>
internal sealed class TestAuthority : IAsyncDisposable
{
    private readonly WebApplication _app;
    private int _requests;

    private TestAuthority(WebApplication app)
    {
        _app = app;
        Keys = [Jwk("rsa", Rsa), Jwk("ec", Ec)];
    }

    public string Issuer => _app.Urls.First();

    public RSA Rsa { get; } = RSA.Create(2048);

    public ECDsa Ec { get; } = ECDsa.Create(ECCurve.NamedCurves.nistP256);

    /// <summary>The published keys.</summary>
    public List<object> Keys { get; }

    /// <summary>How often it was asked for anything: twice to read its keys.</summary>
    public int Requests => _requests;

    /// <summary>What it does in place of answering; null where it answers.</summary>
    public RequestDelegate? Disturbance { get; set; }

    public static async Task<TestAuthority> StartAsync(string url = "http://127.0.0.1:0")
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        var app = builder.Build();
        app.Urls.Add(url);
        var authority = new TestAuthority(app);
        app.Use((HttpContext context, RequestDelegate next) =>
        {
            Interlocked.Increment(ref authority._requests);
            return (authority.Disturbance ?? next)(context);
        });
        app.MapGet("/.well-known/openid-configuration", (HttpRequest request) =>
            Results.Json(new { issuer = $"http://{request.Host}", jwks_uri = $"http://{request.Host}/keys" }));
        app.MapGet("/keys", () => Results.Json(new { keys = authority.Keys }));
        await app.StartAsync();
        return authority;
    }

    /// <summary>Settings of a service that trusts only this issuer.</summary>
    public static Dictionary<string, string?> Settings(string issuer) => new()
    {
        ["Authentication:Schemes:Bearer:Authority"] = issuer,
        ["Authentication:Schemes:Bearer:RequireHttpsMetadata"] = "false",
        ["Authentication:Schemes:Bearer:RefreshInterval"] = "00:00:01",
        ["Authentication:Schemes:Bearer:ValidIssuer"] = null,
        ["Authentication:Schemes:Bearer:SigningKeys:0:Issuer"] = null,
        ["Authentication:Schemes:Bearer:SigningKeys:0:Value"] = null,
    };

    public static byte[] SignRs256(RSA key, byte[] data) => key.SignData(data, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1);

    public static object Jwk(string kid, RSA key)
    {
        var parameters = key.ExportParameters(false);
        return new { kty = "RSA", kid, use = "sig", alg = "RS256", n = Encode(parameters.Modulus!), e = Encode(parameters.Exponent!) };
    }

    public static object Jwk(string kid, ECDsa key)
    {
        var point = key.ExportParameters(false).Q;
        return new { kty = "EC", kid, use = "sig", crv = "P-256", x = Encode(point.X!), y = Encode(point.Y!) };
    }

    public static string Encode(byte[] bytes) => Base64Url.EncodeToString(bytes);

    public async ValueTask DisposeAsync()
    {
        await _app.DisposeAsync();
        Rsa.Dispose();
        Ec.Dispose();
    }
}
