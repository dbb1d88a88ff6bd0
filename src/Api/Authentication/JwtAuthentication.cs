using System.Security.Claims;
using System.Text.Json;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using Microsoft.AspNetCore.Authentication.JwtBearer;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Extensions.Options;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>Which tokens are accepted, and who their bearer is.</summary>
internal static class JwtAuthentication
{
    /// <summary>ASP.NET Core's own section for the scheme.</summary>
    public const string Section = "Authentication:Schemes:Bearer";

    private const string BearerPrefix = "Bearer ";

    // What a bearer claims beyond being one is in its Caller.
    private static readonly ClaimsIdentity s_bearer = new(JwtBearerDefaults.AuthenticationScheme);

    // Where the section says nothing.
    private static readonly TimeSpan s_backchannelTimeout = TimeSpan.FromSeconds(1.5);

    // How often, at most, a token with an unknown key has the authority asked for its keys.
    private static readonly TimeSpan s_refreshInterval = TimeSpan.FromSeconds(30);

    // How long a withdrawn key may go on; the library's shortest.
    private static readonly TimeSpan s_automaticRefreshInterval = BaseConfigurationManager.MinimumAutomaticRefreshInterval;

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

    // A member given twice is refused: RFC 7519, section 4, and the readers before and after us may differ on which counts.
    private static readonly JsonDocumentOptions s_strict = new() { AllowDuplicateProperties = false };

    /// <exception cref="StartupException">A setting makes no sense.</exception>
    public static void AddJwtAuthentication(this IServiceCollection services, IConfiguration configuration, CalcomAccountsOptions options)
    {
        var section = configuration.GetSection(Section);
        var signingKeys = ReadSigningKeys(section);
        var organizationClaim = options.OrganizationClaim;
        var cache = options.TokenCache ? new TokenCache(TimeProvider.System) : null;

        services.AddAuthentication(JwtBearerDefaults.AuthenticationScheme).AddJwtBearer(jwt =>
        {
            // Runs after the configuration section was read, and wins over it.
            jwt.MapInboundClaims = false;
            jwt.IncludeErrorDetails = false;
            jwt.SaveToken = false;
            jwt.AutomaticRefreshInterval = s_automaticRefreshInterval;
            if (section[nameof(jwt.BackchannelTimeout)] is null)
            {
                jwt.BackchannelTimeout = s_backchannelTimeout;
            }

            if (section[nameof(jwt.RefreshInterval)] is null)
            {
                jwt.RefreshInterval = s_refreshInterval;
            }

            var rules = jwt.TokenValidationParameters;
            rules.ValidateIssuer = true;
            rules.ValidateAudience = true;
            rules.IgnoreTrailingSlashWhenValidatingAudience = false;
            rules.ValidateLifetime = true;
            rules.RequireExpirationTime = true;
            rules.RequireSignedTokens = true;
            rules.ValidateIssuerSigningKey = true;
            rules.ClockSkew = TimeSpan.FromSeconds(30);
            rules.IssuerSigningKeys = signingKeys.Keys;

            // A configured key means HS256 from its own issuer; an authority's keys mean the asymmetric algorithms, so
            // that no public key ever verifies an HMAC, and any issuer but those.
            rules.AlgorithmValidator = (algorithm, key, token, _) => signingKeys.TryGetValue(key, out var issuer)
                ? algorithm == SecurityAlgorithms.HmacSha256 && (issuer is null || issuer == token.Issuer)
                : s_asymmetricAlgorithms.TryGetValue(algorithm, out var keySize) && (keySize is null || keySize == key.KeySize)
                    && !signingKeys.ContainsValue(token.Issuer);

            jwt.Events = new JwtBearerEvents
            {
                OnMessageReceived = async context =>
                {
                    // Health, the OpenAPI page and what is no route are answered whatever token comes along.
                    if (context.HttpContext.GetEndpoint()?.Metadata.GetMetadata<IAuthorizeData>() is null)
                    {
                        context.NoResult();
                        return;
                    }

                    var authorization = context.Request.Headers.Authorization.ToString();
                    if (!authorization.StartsWith(BearerPrefix, StringComparison.OrdinalIgnoreCase))
                    {
                        return;
                    }

                    // A token that can't be judged, because the authority's keys can't be had, is not refused: this throws.
                    var keySet = context.Options.ConfigurationManager is { } authority
                        ? await authority.GetConfigurationAsync(context.HttpContext.RequestAborted)
                        : null;
                    context.Token = authorization[BearerPrefix.Length..].Trim();
                    if (cache?.Find(context.Token, keySet) is { } caller)
                    {
                        context.HttpContext.Features.Set(caller);
                        context.Principal = new(s_bearer);
                        context.Success();
                    }
                    else
                    {
                        context.HttpContext.Features.Set(new KeySet(keySet));
                    }
                },
                OnTokenValidated = async context =>
                {
                    var token = (JsonWebToken)context.SecurityToken;
                    if (await IsSignedAsItsKeySaysAsync(token, context.Options, context.HttpContext.RequestAborted)
                        && ReadCaller(token, organizationClaim) is { } caller)
                    {
                        context.HttpContext.Features.Set(caller);
                        cache?.Add(token.EncodedToken, context.HttpContext.Features.GetRequiredFeature<KeySet>().Value, caller, token.ValidTo);
                    }
                    else
                    {
                        context.Fail("Refused by the service's own rules.");
                    }
                },
                OnChallenge = context =>
                {
                    context.Error = context.AuthenticateFailure is null ? null : "invalid_token";
                    return Task.CompletedTask;
                },
            };
        });

        // AddAuthentication brings data protection, for cookies; nothing here needs its keys, which it would write to disk.
        if (services.FirstOrDefault(service => service.ImplementationType?.Name is "DataProtectionHostedService") is { } dataProtection)
        {
            services.Remove(dataProtection);
        }

        // A key that the issuer has withdrawn must not live on as a last known good one.
        services.PostConfigure<JwtBearerOptions>(JwtBearerDefaults.AuthenticationScheme, options =>
        {
            if (options.ConfigurationManager is BaseConfigurationManager manager)
            {
                manager.UseLastKnownGoodConfiguration = false;
            }
        });
    }

    /// <summary>Builds the scheme's options now rather than with the first request.</summary>
    /// <exception cref="StartupException">ASP.NET Core refuses the section.</exception>
    public static void CheckJwtAuthentication(this IServiceProvider services)
    {
        try
        {
            services.GetRequiredService<IOptionsMonitor<JwtBearerOptions>>().Get(JwtBearerDefaults.AuthenticationScheme);
        }
        catch (Exception exception) when (exception is InvalidOperationException or ArgumentException or FormatException)
        {
            throw new StartupException(
                $"{Section} is not valid: {ServiceHost.Explain(exception, services.GetRequiredService<IConfiguration>())}", exception);
        }
    }

    /// <summary>The keys of what is not configured, and has to be: issuer, audience, key source.</summary>
    public static IEnumerable<string> FindMissing(IConfiguration configuration)
    {
        var section = configuration.GetSection(Section);
        var hasAuthority = IsSet(section["Authority"]) || IsSet(section["MetadataAddress"]);
        if (Values(section, "ValidIssuer", "ValidIssuers") is [] && !hasAuthority)
        {
            yield return $"{Section}:ValidIssuer";
        }

        if (Values(section, "ValidAudience", "ValidAudiences") is [])
        {
            yield return $"{Section}:ValidAudience";
        }

        if (!section.GetSection("SigningKeys").GetChildren().Any() && !hasAuthority)
        {
            yield return $"{Section}:Authority or {Section}:SigningKeys";
        }
    }

    /// <returns>The configured keys, each with the one issuer it may sign for, or null for any.</returns>
    private static Dictionary<SecurityKey, string?> ReadSigningKeys(IConfigurationSection section)
    {
        var issuers = Values(section, "ValidIssuer", "ValidIssuers");
        return section.GetSection("SigningKeys").GetChildren().ToDictionary(ReadSigningKey, key => ReadIssuer(key, issuers));
    }

    private static bool IsSet(string? value) => !string.IsNullOrWhiteSpace(value);

    private static List<string> Values(IConfigurationSection section, string one, string many) =>
        [.. section.GetSection(many).GetChildren().Select(child => child.Value).Append(section[one]).OfType<string>().Where(IsSet)];

    private static SecurityKey ReadSigningKey(IConfigurationSection key)
    {
        var bytes = new byte[key["Value"]?.Length ?? 0];
        return Convert.TryFromBase64String(key["Value"] ?? "", bytes, out var length) && length >= ShortestKeyBytes
            ? new SymmetricSecurityKey(bytes[..length])
            : throw new StartupException($"{key.Path}:Value has to be the base64 of at least {ShortestKeyBytes} bytes");
    }

    private static string? ReadIssuer(IConfigurationSection key, List<string> issuers) =>
        key["Issuer"] is not { Length: > 0 } issuer ? null
        : issuers.Contains(issuer) ? issuer
        : throw new StartupException($"{key.Path}:Issuer is not among {Section}:ValidIssuers");

    // An authority may say of a key which algorithm it is for (RFC 7517, section 4.4).
    private static async Task<bool> IsSignedAsItsKeySaysAsync(
        JsonWebToken token, JwtBearerOptions options, CancellationToken cancellationToken)
    {
        if (token.SigningKey is SymmetricSecurityKey || options.ConfigurationManager is null)
        {
            return true;
        }

        var configuration = await options.ConfigurationManager.GetConfigurationAsync(cancellationToken);
        return configuration.JsonWebKeySet.Keys.All(
            key => key.KeyId != token.SigningKey.KeyId || string.IsNullOrEmpty(key.Alg) || key.Alg == token.Alg);
    }

    /// <returns>Null where the claims don't say who asks, or the header asks for what is not understood here.</returns>
    internal static Caller? ReadCaller(JsonWebToken token, string organizationClaim)
    {
        try
        {
            using var header = JsonDocument.Parse(Base64UrlEncoder.DecodeBytes(token.EncodedHeader), s_strict);
            using var claims = JsonDocument.Parse(Base64UrlEncoder.DecodeBytes(token.EncodedPayload), s_strict);

            // No extension is understood here, so none may be critical: RFC 7515, section 4.1.11.
            return header.RootElement.TryGetProperty("crit", out _) ? null : ReadCaller(claims.RootElement, organizationClaim);
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException)
        {
            // A member given twice, or text that is not Unicode.
            return null;
        }
    }

    private static Caller? ReadCaller(JsonElement claims, string organizationClaim)
    {
        claims.TryGetProperty(organizationClaim, out var organization);
        claims.TryGetProperty("sub", out var subject);
        return (organization.ValueKind, subject.ValueKind) switch
        {
            (JsonValueKind.String, _) when organization.GetString() is { Length: > 0 } orgId =>
                Uuid.IsValid(orgId) ? Caller.OfOrganization(Uuid.Parse(orgId)) : null,
            (JsonValueKind.Undefined or JsonValueKind.Null or JsonValueKind.String, JsonValueKind.String)
                when subject.GetString() is { Length: > 0 } name => Caller.OfSubject(name),
            _ => null,
        };
    }

    /// <summary>What the authority published before the request's token was validated; null without one.</summary>
    private sealed record KeySet(object? Value);
}
