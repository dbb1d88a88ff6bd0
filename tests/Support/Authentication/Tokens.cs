using System.Buffers.Text;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

namespace CalcomAccounts.Tests.Support.Authentication;

/// <summary>Creates tokens by hand, so that invalid ones can be created too.</summary>
internal static class Tokens
{
    public const string Issuer = "https://issuer.example";
    public const string Audience = "calcom-accounts-tests";

    /// <summary>Long enough for HS512, so that such a token is refused only for its algorithm.</summary>
    public static byte[] Key { get; } = RandomNumberGenerator.GetBytes(64);

    /// <summary>A valid token with these claims; a claim given here replaces the default, one of value <see cref="Absent"/> leaves it out.</summary>
    public static string With(params (string Claim, object? Value)[] claims)
    {
        var payload = new Dictionary<string, object?>
        {
            ["iss"] = Issuer,
            ["aud"] = Audience,
            ["exp"] = InSeconds(300),
        };
        foreach (var (claim, value) in claims)
        {
            payload[claim] = value;
            if (ReferenceEquals(value, Absent))
            {
                payload.Remove(claim);
            }
        }

        return Sign("""{"alg":"HS256","typ":"JWT"}""", JsonSerializer.Serialize(payload));
    }

    static Tokens() => LeakDetector.Watch(Convert.ToBase64String(Key));

    public static object Absent { get; } = new();

    public static string OfOrganization(Guid orgId) => With(("org_id", orgId.ToString()), ("sub", "somebody"));

    public static string OfSubject(string subject) => With(("sub", subject));

    public static long InSeconds(int seconds) => DateTimeOffset.UtcNow.AddSeconds(seconds).ToUnixTimeSeconds();

    /// <summary>Signs any header and payload by HMAC, valid or not.</summary>
    public static string Sign(string header, string payload, byte[]? key = null, Func<byte[], byte[], byte[]>? hmac = null)
    {
        var content = $"{Encode(header)}.{Encode(payload)}";
        var signature = (hmac ?? HMACSHA256.HashData)(key ?? Key, Encoding.ASCII.GetBytes(content));
        return $"{content}.{Watched(Base64Url.EncodeToString(signature))}";
    }

    /// <summary>Returns the signature, which no log may contain from now on.</summary>
    public static string Watched(string signature)
    {
        LeakDetector.Watch(signature);
        return signature;
    }

    public static string Encode(string json) => Base64Url.EncodeToString(Encoding.UTF8.GetBytes(json));
}
