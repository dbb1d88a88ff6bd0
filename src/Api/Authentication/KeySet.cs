using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>The keys of a <see cref="TrustedIssuer"/> at one time.</summary>
internal sealed class KeySet
{
    private readonly TrustedIssuer _issuer;
    private readonly IReadOnlyList<SecurityKey> _published;
    private readonly ILookup<string, string> _algorithms;

    /// <param name="issuer">Whose they are.</param>
    /// <param name="issuers">What <c>iss</c> may be.</param>
    /// <param name="published">What the authority publishes.</param>
    /// <param name="algorithms">Which algorithms it says keys are for (RFC 7517, section 4.4), by the keys' id.</param>
    public KeySet(TrustedIssuer issuer, IReadOnlyList<string> issuers, IReadOnlyList<SecurityKey> published, ILookup<string, string> algorithms)
    {
        (_issuer, Issuers, _published, _algorithms) = (issuer, issuers, published, algorithms);
        Rules = issuer.Rules(this);
    }

    public IReadOnlyList<string> Issuers { get; }

    /// <summary>How a token is validated by these keys.</summary>
    public TokenValidationParameters Rules { get; }

    /// <summary>Whether they have not been replaced.</summary>
    public bool IsCurrent => ReferenceEquals(_issuer.KeySet, this);

    /// <summary>The keys that may have signed a token: those of its key id, and those that have none.</summary>
    public IEnumerable<SecurityKey> Find(string? keyId, IEnumerable<SecurityKey> configured) =>
        _published.Where(key => string.IsNullOrEmpty(keyId) || string.IsNullOrEmpty(key.KeyId) || key.KeyId == keyId).Concat(configured);

    /// <summary>Whether the authority says of no key of this id that it is for another algorithm.</summary>
    public bool IsFor(SecurityKey key, string algorithm) =>
        key is SymmetricSecurityKey || _algorithms[key.KeyId ?? ""].All(stated => stated == algorithm);
}
