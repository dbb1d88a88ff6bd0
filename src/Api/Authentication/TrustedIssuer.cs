using System.Globalization;
using CalcomAccounts.Infrastructure;
using Microsoft.IdentityModel.Protocols.OpenIdConnect;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>
/// Whose tokens are accepted, for which audiences and by which keys: one section of JwtBearer's own names, the scheme's or one of
/// <c>CalcomAccounts:Authorities</c>. No key of one section validates a token of another.
/// </summary>
internal sealed class TrustedIssuer
{
    // Where the section says nothing.
    private static readonly TimeSpan s_clockSkew = TimeSpan.FromSeconds(30);

    private readonly string[] _audiences;
    private readonly TimeSpan _clockSkew;
    private readonly SigningKeys _signingKeys;
    private volatile KeySet _keySet;

    private TrustedIssuer(IConfigurationSection section, ILogger logger)
    {
        Name = section.Path;
        Issuers = Values(section, "ValidIssuer", "ValidIssuers");
        _audiences = [.. Values(section, "ValidAudience", "ValidAudiences")];
        _clockSkew = ReadClockSkew(section);
        _signingKeys = SigningKeys.Read(section, Issuers);
        Published = PublishedKeys.Read(section, Accept, logger);
        _keySet = new(this, Issuers, [], Array.Empty<string>().ToLookup(_ => ""));
    }

    /// <summary>Where it is configured.</summary>
    public string Name { get; }

    /// <summary>The issuers that are configured; an authority names its own in its discovery document.</summary>
    public IReadOnlyList<string> Issuers { get; }

    /// <summary>The keys that its authority publishes; null without an authority.</summary>
    public PublishedKeys? Published { get; }

    /// <summary>The keys in force: the configured ones alone until the authority has been reached.</summary>
    public KeySet KeySet => _keySet;

    /// <summary>Whether it is known which issuer and keys these are.</summary>
    public bool IsKnown => Published is null or { IsRead: true };

    /// <summary>Reads the scheme's section and all further ones.</summary>
    /// <exception cref="StartupException">A setting makes no sense.</exception>
    public static IReadOnlyList<TrustedIssuer> ReadAll(IConfiguration configuration, ILogger logger)
    {
        var issuers = Sections(configuration).Select(section => new TrustedIssuer(section, logger)).ToList();
        var twice = issuers.SelectMany(issuer => issuer.Issuers.Distinct()).GroupBy(name => name).Any(group => group.Count() > 1);
        return twice ? throw new StartupException($"{JwtAuthentication.AuthoritiesSection}: an issuer is named by more than one section") : issuers;
    }

    /// <summary>The keys of what is not configured, and has to be: issuer, audience, key source.</summary>
    public static IEnumerable<string> FindMissing(IConfiguration configuration)
    {
        foreach (var section in Sections(configuration))
        {
            var hasAuthority = PublishedKeys.ReadAddress(section) is not null;
            if (Values(section, "ValidIssuer", "ValidIssuers") is [] && !hasAuthority)
            {
                yield return $"{section.Path}:ValidIssuer";
            }

            if (Values(section, "ValidAudience", "ValidAudiences") is [])
            {
                yield return $"{section.Path}:ValidAudience";
            }

            if (!section.GetSection("SigningKeys").GetChildren().Any() && !hasAuthority)
            {
                yield return $"{section.Path}:Authority or {section.Path}:SigningKeys";
            }
        }
    }

    // The scheme's own section may be left out where there are others.
    private static IEnumerable<IConfigurationSection> Sections(IConfiguration configuration)
    {
        var scheme = configuration.GetSection(JwtAuthentication.Section);
        var authorities = configuration.GetSection(JwtAuthentication.AuthoritiesSection).GetChildren().ToList();
        return scheme.Exists() || authorities.Count is 0 ? authorities.Prepend(scheme) : authorities;
    }

    private static TimeSpan ReadClockSkew(IConfigurationSection section) =>
        section["ClockSkew"] is not { Length: > 0 } text ? s_clockSkew
        : TimeSpan.TryParse(text, CultureInfo.InvariantCulture, out var skew) && skew >= TimeSpan.Zero && skew <= TimeSpan.FromHours(1) ? skew
        : throw new StartupException($"{section.Path}:ClockSkew has to be a time span up to an hour, such as 00:00:30");

    /// <summary>Whether any key of this issuer may verify the algorithm.</summary>
    public bool Allows(string algorithm) => SigningKeys.IsAsymmetric(algorithm) ? Published is not null : _signingKeys.Allows(algorithm);

    /// <summary>How a token of this issuer is validated by one set of its keys.</summary>
    public TokenValidationParameters Rules(KeySet keySet) => new()
    {
        ValidateIssuer = true,
        ValidIssuers = keySet.Issuers,
        ValidateAudience = true,
        ValidAudiences = _audiences,
        IgnoreTrailingSlashWhenValidatingAudience = false,
        ValidateLifetime = true,
        RequireExpirationTime = true,
        RequireSignedTokens = true,
        ValidateIssuerSigningKey = true,
        ClockSkew = _clockSkew,
        IssuerSigningKeyResolver = (_, _, keyId, _) => keySet.Find(keyId, _signingKeys.Configured),
        AlgorithmValidator = (algorithm, key, token, _) =>
            _signingKeys.MayVerify(algorithm, key, token.Issuer) && keySet.IsFor(key, algorithm),
    };

    /// <summary>The values of a setting that has a form for one and a form for many.</summary>
    private static List<string> Values(IConfigurationSection section, string one, string many) =>
        [.. section.GetSection(many).GetChildren().Select(child => child.Value).Append(section[one]).OfType<string>().Where(value => !string.IsNullOrWhiteSpace(value))];

    private void Accept(OpenIdConnectConfiguration published) => _keySet = new(
        this,
        [.. Issuers.Append(published.Issuer).OfType<string>().Distinct()],
        [.. published.SigningKeys],
        published.JsonWebKeySet.Keys.Where(key => !string.IsNullOrEmpty(key.Alg)).ToLookup(key => key.KeyId ?? "", key => key.Alg));
}
