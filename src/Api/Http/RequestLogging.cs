using System.Diagnostics;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Api.Observability;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Database;
using Microsoft.AspNetCore.Diagnostics;
using Npgsql;

namespace CalcomAccounts.Api.Http;

/// <summary>
/// One line for each request: how it ended, for which agent, how long it took, and, where it failed unexpectedly, why.
/// Nothing that a caller chose is in it but a UUID.
/// </summary>
internal sealed partial class RequestLogging(RequestDelegate next, ILogger<RequestLogging> logger)
{
    /// <param name="context">The request.</param>
    /// <param name="details">What the request's own services say of it for its line.</param>
    public async Task InvokeAsync(HttpContext context, RequestLogDetails details)
    {
        var started = Stopwatch.GetTimestamp();
        try
        {
            await next(context);
        }
        finally
        {
            Write(context, details, Stopwatch.GetElapsedTime(started));
        }
    }

    private void Write(HttpContext context, RequestLogDetails details, TimeSpan elapsed)
    {
        // The exception handler has taken endpoint and route values off the request by now.
        var failure = context.Features.Get<IExceptionHandlerFeature>();
        var endpoint = failure?.Endpoint ?? context.GetEndpoint();
        var values = failure?.RouteValues ?? context.Request.RouteValues;

        var status = context.Response.StatusCode;
        var route = (endpoint as RouteEndpoint)?.RoutePattern.RawText;
        var level = failure is null && route?.StartsWith("/health/", StringComparison.Ordinal) is true ? LogLevel.Debug
            : status >= StatusCodes.Status500InternalServerError ? LogLevel.Error
            : LogLevel.Information;
        var decision = details.Decision;
        var outcome = decision is null ? Outcome(status) : WireNames.Of(decision.Effective.Type);
        var agentId = values["agent_id"] is string text && Uuid.IsValid(text) ? text : null;
        var caller = CallerClaims.KindOf(context.User);
        var milliseconds = Math.Round(elapsed.TotalMilliseconds, 1);
        var span = Activity.Current;
        if (span?.Source.HasListeners() is true)
        {
            Telemetry.Describe(span, route, agentId, outcome, decision);
        }

        // A failure of the database fails whole batches: their message says why, and a stack trace for each request of them no more.
        var error = status < StatusCodes.Status500InternalServerError ? null
            : failure?.Error is DatabaseException or NpgsqlException or TooManyLookupsException or KeysUnavailableException ? new Summary(failure.Error) : failure?.Error;
        LogRequest(level, error, status, outcome, details.Reason, caller, agentId, details.Agents, milliseconds, route, span?.TraceId);
    }

    private static string Outcome(int status) => status switch
    {
        < StatusCodes.Status400BadRequest => "ok",
        StatusCodes.Status401Unauthorized => "unauthorized",
        StatusCodes.Status403Forbidden => "forbidden",
        StatusCodes.Status404NotFound => "not_found",
        StatusCodes.Status405MethodNotAllowed => "method_not_allowed",
        StatusCodes.Status415UnsupportedMediaType => "unsupported_media_type",
        StatusCodes.Status429TooManyRequests => "too_many_requests",
        StatusCodes.Status499ClientClosedRequest => "client_closed_request",
        < StatusCodes.Status500InternalServerError => "invalid_request",
        _ => "internal_error",
    };

    [LoggerMessage(
        EventId = 1,
        EventName = "Request",
        Message = "{StatusCode} {Outcome} reason={Reason} caller={Caller} agent={AgentId} agents={Agents} ms={Milliseconds} route={Route} trace={TraceId}")]
    private partial void LogRequest(
        LogLevel level, Exception? exception, int statusCode, string outcome, string? reason, string? caller, string? agentId, int? agents, double milliseconds, string? route, ActivityTraceId? traceId);

    /// <summary>Of an exception of the database only what may be logged, in one line: its type, and what is known of its cause.</summary>
    private sealed class Summary(Exception exception) : Exception(DatabaseErrors.Describe(exception))
    {
        public override string ToString() => $"{exception.GetType()}: {Message}";
    }
}

/// <summary>Composes <see cref="RequestLogging"/>.</summary>
internal static class RequestLoggingExtensions
{
    // These repeat what was sent, tokens included: URLs, methods, claims, origins, and headers that can't be parsed.
    private static readonly string[] s_sensitiveCategories =
    [
        "Microsoft.AspNetCore.Authentication", "Microsoft.AspNetCore.Cors", "Microsoft.AspNetCore.Hosting.Diagnostics",
        "Microsoft.AspNetCore.HttpOverrides", "Microsoft.AspNetCore.Rewrite", "Microsoft.AspNetCore.Routing",
        "Microsoft.AspNetCore.Server.Kestrel", "Microsoft.AspNetCore.StaticFiles",
    ];

    /// <summary>Silences what repeats requests, however verbose the rest is configured to be.</summary>
    public static IServiceCollection AddRequestLogging(this IServiceCollection services) => services
        .AddScoped<RequestLogDetails>()
        .AddLogging(logging =>
        {
            foreach (var category in s_sensitiveCategories)
            {
                logging.AddFilter(category, LogLevel.Critical);
            }
        });

    /// <summary>Has to come before everything whose outcome a line tells.</summary>
    public static IApplicationBuilder UseRequestLogging(this IApplicationBuilder app) => app.UseMiddleware<RequestLogging>();
}
