using System.Text.RegularExpressions;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Infrastructure;
using Microsoft.Net.Http.Headers;

namespace CalcomAccounts.Api.Http;

/// <summary>CORS: which pages on other origins may read answers in a browser. By default none, and no answer has a header of it.</summary>
internal static partial class CrossOriginRequests
{
    // As long as Chromium remembers a preflight at most.
    private static readonly TimeSpan s_preflightMaxAge = TimeSpan.FromHours(2);

    /// <exception cref="StartupException">An origin makes no sense.</exception>
    public static IServiceCollection AddCrossOriginRequests(this IServiceCollection services, CalcomAccountsOptions options)
    {
        var origins = SettingsList.Read<string>(
            options.Cors, "AllowedOrigins", "an origin, as in https://app.example or http://localhost:3000, without a path or a wildcard", TryParseOrigin);

        return services.AddCors(cors => cors.AddDefaultPolicy(policy => policy
            .WithOrigins([.. origins])
            .WithMethods(HttpMethods.Get, HttpMethods.Head, HttpMethods.Post)
            .WithHeaders(HeaderNames.Authorization, HeaderNames.ContentType)
            .WithExposedHeaders(HeaderNames.RetryAfter, HeaderNames.WWWAuthenticate)
            .SetPreflightMaxAge(s_preflightMaxAge)));
    }

    /// <summary>Has to come before everything that answers, so that errors can be read as well.</summary>
    public static void UseCrossOriginRequests(this WebApplication app, CalcomAccountsOptions options)
    {
        if (options.Cors?.GetChildren().Any() is true)
        {
            app.Use((context, next) =>
            {
                context.Response.OnStarting(VaryByOrigin, context.Response);
                return next(context);
            });
            app.UseCors();
        }
    }

    // A cache must not give what it has kept for one origin, or for none, to another; ASP.NET Core says so to allowed origins alone.
    private static Task VaryByOrigin(object state)
    {
        var headers = ((HttpResponse)state).Headers;
        if (!headers.Vary.Contains(HeaderNames.Origin))
        {
            headers.Append(HeaderNames.Vary, HeaderNames.Origin);
        }

        return Task.CompletedTask;
    }

    private static bool TryParseOrigin(string text, out string origin)
    {
        var isOrigin = Uri.TryCreate(text, UriKind.Absolute, out var uri)
            && Origin.IsMatch(text)
            && Uri.CheckHostName(uri.IdnHost) is not UriHostNameType.Unknown;

        // As browsers write it: in lower case, and without the port that is the scheme's own.
        origin = isOrigin ? uri!.GetLeftPart(UriPartial.Authority) : "";
        return isOrigin;
    }

    [GeneratedRegex(@"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\\?#@*\s]+$")]
    private static partial Regex Origin { get; }
}
