using CalcomAccounts.Infrastructure;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>Which algorithm a key may verify, and for which issuer.</summary>
/// <param name="configured">The keys of <c>SigningKeys</c>, each with the one issuer it may sign for, or null for any.</param>
internal sealed class SigningKeys(IReadOnlyDictionary<SecurityKey, string?> configured)
{
    // What HS256 needs for a key: as long as its hash (RFC 7518, section 3.2).
    private const int ShortestKeyBytes = 32;

    // Each elliptic algorithm has its own curve (RFC 7518, section 3.4), which the library does not insist on: its key size in bits.
    private static readonly Dictionary<string, int?> s_asymmetricAlgorithms = new()
    {
        [SecurityAlgorithms.RsaSha256] = null,
        [SecurityAlgorithms.RsaSha384] = null,
        [SecurityAlgorithms.RsaSha512] = null,
        [SecurityAlgorithms.RsaSsaPssSha256] = null,
        [SecurityAlgorithms.RsaSsaPssSha384] = null,
        [SecurityAlgorithms.RsaSsaPssSha512] = null,
        [SecurityAlgorithms.EcdsaSha256] = 256,
        [SecurityAlgorithms.EcdsaSha384] = 384,
        [SecurityAlgorithms.EcdsaSha512] = 521,
    };

    /// <summary>The keys of <c>SigningKeys</c>.</summary>
    public IEnumerable<SecurityKey> Configured => configured.Keys;

    /// <param name="section">An issuer's section.</param>
    /// <param name="issuers">The issuers that it names.</param>
    /// <exception cref="StartupException">A key is too short, no base64, or names an issuer that is not accepted.</exception>
    public static SigningKeys Read(IConfigurationSection section, IReadOnlyList<string> issuers) =>
        new(section.GetSection("SigningKeys").GetChildren().ToDictionary(ReadKey, key => ReadIssuer(key, issuers, section.Path)));

    /// <summary>Whether it is an algorithm that an authority's keys may be for.</summary>
    public static bool IsAsymmetric(string algorithm) => s_asymmetricAlgorithms.ContainsKey(algorithm);

    /// <summary>Whether a configured key may verify the algorithm.</summary>
    public bool Allows(string algorithm) => algorithm == SecurityAlgorithms.HmacSha256 && configured.Count > 0;

    /// <summary>
    /// A configured key means HS256 from its own issuer; an authority's keys mean the asymmetric algorithms, so that no public key
    /// ever verifies an HMAC, and any issuer but those.
    /// </summary>
    public bool MayVerify(string algorithm, SecurityKey key, string issuer) =>
        configured.TryGetValue(key, out var itsIssuer)
            ? algorithm == SecurityAlgorithms.HmacSha256 && (itsIssuer is null || itsIssuer == issuer)
            : s_asymmetricAlgorithms.TryGetValue(algorithm, out var keySize) && (keySize is null || keySize == key.KeySize)
                && !configured.Values.Contains(issuer);

    private static SecurityKey ReadKey(IConfigurationSection key)
    {
        var bytes = new byte[key["Value"]?.Length ?? 0];
        return Convert.TryFromBase64String(key["Value"] ?? "", bytes, out var length) && length >= ShortestKeyBytes
            ? new SymmetricSecurityKey(bytes[..length])
            : throw new StartupException($"{key.Path}:Value has to be the base64 of at least {ShortestKeyBytes} bytes");
    }

    private static string? ReadIssuer(IConfigurationSection key, IReadOnlyList<string> issuers, string section) =>
        key["Issuer"] is not { Length: > 0 } issuer ? null
        : issuers.Contains(issuer) ? issuer
        : throw new StartupException($"{key.Path}:Issuer is not among {section}:ValidIssuers");
}
