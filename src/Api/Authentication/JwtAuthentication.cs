using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Infrastructure;
using Microsoft.AspNetCore.Authentication.JwtBearer;
using Microsoft.AspNetCore.Authorization;
using Microsoft.Extensions.Options;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Protocols.OpenIdConnect;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>Which tokens are accepted, and who their bearer is.</summary>
internal static class JwtAuthentication
{
    /// <summary>ASP.NET Core's own section for the scheme.</summary>
    public const string Section = "Authentication:Schemes:Bearer";

    private const string BearerPrefix = "Bearer ";

    // Where the section says nothing.
    private static readonly TimeSpan s_backchannelTimeout = TimeSpan.FromSeconds(1.5);

    // How often, at most, a token with an unknown key has the authority asked for its keys.
    private static readonly TimeSpan s_refreshInterval = TimeSpan.FromSeconds(30);

    // How long a withdrawn key may go on; the library's shortest.
    private static readonly TimeSpan s_automaticRefreshInterval = BaseConfigurationManager.MinimumAutomaticRefreshInterval;

    /// <exception cref="StartupException">A setting makes no sense.</exception>
    public static IServiceCollection AddJwtAuthentication(this IServiceCollection services, IConfiguration configuration, CalcomAccountsOptions options)
    {
        var section = configuration.GetSection(Section);
        var signingKeys = SigningKeys.Read(section);
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
            rules.IssuerSigningKeys = signingKeys.Configured;
            rules.AlgorithmValidator = (algorithm, key, token, _) => signingKeys.MayVerify(algorithm, key, token.Issuer);

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
                    var keySet = await GetKeySetAsync(context.Options, context.HttpContext);
                    context.Token = authorization[BearerPrefix.Length..].Trim();
                    if (cache?.Find(context.Token, keySet) is { } user)
                    {
                        context.Principal = user;
                        context.Success();
                    }
                },
                OnTokenValidated = async context =>
                {
                    var token = (JsonWebToken)context.SecurityToken;
                    var keySet = await GetKeySetAsync(context.Options, context.HttpContext);
                    if (!IsSignedAsItsKeySays(token, keySet) || CallerClaims.Read(token, organizationClaim) is not { } caller)
                    {
                        context.Fail("Refused by the service's own rules.");
                        return;
                    }

                    context.Principal = CallerClaims.ToPrincipal(caller);
                    if (IsValidatedBy(token, keySet))
                    {
                        cache?.Add(token.EncodedToken, keySet, context.Principal, token.ValidTo);
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
        return services.PostConfigure<JwtBearerOptions>(JwtBearerDefaults.AuthenticationScheme, options =>
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
        if (SigningKeys.Values(section, "ValidIssuer", "ValidIssuers") is [] && !hasAuthority)
        {
            yield return $"{Section}:ValidIssuer";
        }

        if (SigningKeys.Values(section, "ValidAudience", "ValidAudiences") is [])
        {
            yield return $"{Section}:ValidAudience";
        }

        if (!section.GetSection("SigningKeys").GetChildren().Any() && !hasAuthority)
        {
            yield return $"{Section}:Authority or {Section}:SigningKeys";
        }
    }

    private static bool IsSet(string? value) => !string.IsNullOrWhiteSpace(value);

    /// <returns>What the authority publishes; null without an authority.</returns>
    private static async Task<OpenIdConnectConfiguration?> GetKeySetAsync(JwtBearerOptions options, HttpContext context) =>
        options.ConfigurationManager is { } authority ? await authority.GetConfigurationAsync(context.RequestAborted) : null;

    // The key set may have been exchanged while the token was validated.
    private static bool IsValidatedBy(JsonWebToken token, OpenIdConnectConfiguration? keySet) =>
        keySet is null || token.SigningKey is SymmetricSecurityKey || keySet.SigningKeys.Contains(token.SigningKey);

    // An authority may say of a key which algorithm it is for (RFC 7517, section 4.4).
    private static bool IsSignedAsItsKeySays(JsonWebToken token, OpenIdConnectConfiguration? keySet) =>
        keySet is null || token.SigningKey is SymmetricSecurityKey || keySet.JsonWebKeySet.Keys.All(
            key => key.KeyId != token.SigningKey.KeyId || string.IsNullOrEmpty(key.Alg) || key.Alg == token.Alg);
}
