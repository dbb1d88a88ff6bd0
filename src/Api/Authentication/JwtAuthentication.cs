using System.Diagnostics.Metrics;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Api.Http;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using Microsoft.AspNetCore.Authentication.JwtBearer;
using Microsoft.AspNetCore.Authorization;
using Microsoft.Extensions.Options;

namespace CalcomAccounts.Api.Authentication;

/// <summary>Composes the scheme by which callers are known: docs/security.md.</summary>
internal static class JwtAuthentication
{
    /// <summary>ASP.NET Core's own section for the scheme.</summary>
    public const string Section = "Authentication:Schemes:Bearer";

    /// <summary>Further issuers, each a section of the same names.</summary>
    public const string AuthoritiesSection = "CalcomAccounts:Authorities";

    private const string BearerPrefix = "Bearer ";

    public static IServiceCollection AddJwtAuthentication(this IServiceCollection services, IConfiguration configuration, CalcomAccountsOptions options)
    {
        services.AddSingleton(provider => TrustedIssuer.ReadAll(configuration, provider.GetRequiredService<ILogger<PublishedKeys>>()));
        services.AddSingleton<TokenRefusals>();
        if (options.TokenCache)
        {
            services.AddSingleton(_ => new TokenCache(TimeProvider.System));
        }

        services.AddHostedService<KeyRefresh>();
        services.AddAuthentication(JwtBearerDefaults.AuthenticationScheme).AddJwtBearer();
        services.AddOptions<JwtBearerOptions>(JwtBearerDefaults.AuthenticationScheme).Configure<IServiceProvider>((jwt, provider) =>
        {
            var issuers = provider.GetRequiredService<IReadOnlyList<TrustedIssuer>>();
            var refusals = provider.GetRequiredService<TokenRefusals>();
            var cache = provider.GetService<TokenCache>();

            // Runs after the section was read, and wins over it. TokenValidator reads issuers and keys from the section itself.
            jwt.Authority = null;
            jwt.MetadataAddress = null!;
            jwt.ConfigurationManager = null;
            jwt.TokenValidationParameters = new();
            jwt.MapInboundClaims = false;
            jwt.IncludeErrorDetails = false;
            jwt.SaveToken = false;
            jwt.TokenHandlers.Clear();
            jwt.TokenHandlers.Add(new TokenValidator(issuers, new CallerClaims(options), cache));
            jwt.Events = new JwtBearerEvents
            {
                OnMessageReceived = context =>
                {
                    // Health, the OpenAPI page and what is no route are answered whatever token comes along.
                    if (context.HttpContext.GetEndpoint()?.Metadata.GetMetadata<IAuthorizeData>() is null)
                    {
                        context.NoResult();
                        return Task.CompletedTask;
                    }

                    var authorization = context.Request.Headers.Authorization.ToString();
                    if (authorization.StartsWith(BearerPrefix, StringComparison.OrdinalIgnoreCase))
                    {
                        context.Token = authorization[BearerPrefix.Length..].Trim();
                        if (cache?.Find(context.Token) is { } user)
                        {
                            context.Principal = user;
                            context.Success();
                        }
                    }

                    return Task.CompletedTask;
                },
                OnAuthenticationFailed = context => context.Exception is KeysUnavailableException

                    // The token has not been judged, so it is not refused: the request fails.
                    ? Task.FromException(context.Exception)
                    : Task.CompletedTask,
                OnChallenge = context =>
                {
                    context.Error = context.AuthenticateFailure is null ? null : "invalid_token";
                    refusals.Count(context.HttpContext, (context.AuthenticateFailure as TokenRefusedException)?.Reason ?? Refusal.NoToken);
                    return Task.CompletedTask;
                },
                OnForbidden = context =>
                {
                    refusals.Count(context.HttpContext, CallerClaims.LackOf(context.HttpContext.User)!);
                    return Task.CompletedTask;
                },
            };
        });
        services.AddAuthorizationBuilder().SetDefaultPolicy(new AuthorizationPolicyBuilder()
            .RequireAuthenticatedUser()
            .RequireAssertion(context => CallerClaims.LackOf(context.User) is null)
            .Build());

        // AddAuthentication brings data protection, for cookies; nothing here needs its keys, which it would write to disk.
        if (services.FirstOrDefault(service => service.ImplementationType?.Name is "DataProtectionHostedService") is { } dataProtection)
        {
            services.Remove(dataProtection);
        }

        return services;
    }

    /// <summary>Builds the scheme's options now rather than with the first request.</summary>
    /// <exception cref="StartupException">A setting makes no sense.</exception>
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

    /// <summary>Tells the log and the metrics why a request was refused.</summary>
    private sealed class TokenRefusals(IMeterFactory meters)
    {
        private readonly Counter<long> _refusals = meters.Create(ResolutionMetrics.MeterName).CreateCounter<long>(
            "calcom.auth.refusals", "{request}", "Requests that were refused for their token, by reason");

        public void Count(HttpContext context, string reason)
        {
            context.RequestServices.GetRequiredService<RequestLogDetails>().Reason = reason;
            _refusals.Add(1, new KeyValuePair<string, object?>("reason", reason));
        }
    }

    /// <summary>Reads the keys of all authorities at start, and keeps them fresh.</summary>
    private sealed class KeyRefresh : BackgroundService
    {
        private readonly IReadOnlyList<TrustedIssuer> _authorities;

        public KeyRefresh(IReadOnlyList<TrustedIssuer> issuers, IMeterFactory meters)
        {
            _authorities = [.. issuers.Where(issuer => issuer.Published is not null)];
            if (_authorities.Count > 0)
            {
                meters.Create(ResolutionMetrics.MeterName).CreateObservableGauge(
                    "calcom.auth.key_set.age",
                    () => _authorities.Select(authority => new Measurement<double>(authority.Published!.Age.TotalSeconds, new KeyValuePair<string, object?>("authority", authority.Name))),
                    "s",
                    "How long ago the keys of an authority were last read");
            }
        }

        protected override Task ExecuteAsync(CancellationToken stoppingToken) =>
            Task.WhenAll(_authorities.Select(authority => authority.Published!.RunAsync(stoppingToken)));

        public override void Dispose()
        {
            base.Dispose();
            foreach (var authority in _authorities)
            {
                authority.Published!.Dispose();
            }
        }
    }
}
