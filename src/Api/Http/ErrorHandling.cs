using CalcomAccounts.Application;
using Microsoft.AspNetCore.Diagnostics;
using Microsoft.AspNetCore.Mvc;

namespace CalcomAccounts.Api.Http;

/// <summary>The one place where a failure becomes a status and a body.</summary>
internal static class ErrorHandling
{
    public static IServiceCollection AddErrorHandling(this IServiceCollection services) => services
        .AddExceptionHandler<UnexpectedExceptionHandler>()
        .PostConfigure<ApiBehaviorOptions>(options =>
        {
            // Empty answers get their body below, not a problem+json one.
            options.SuppressMapClientErrors = true;
            options.InvalidModelStateResponseFactory = context => new JsonAnswer(
                StatusCodes.Status400BadRequest,
                ErrorResponse.InvalidRequest(context.ModelState.Values.SelectMany(entry => entry.Errors).First().ErrorMessage));
        });

    /// <summary>Has to come before everything that may fail.</summary>
    public static void UseErrorHandling(this WebApplication app)
    {
        app.UseStatusCodePages(page => WriteBodyAsync(page.HttpContext));
        app.UseExceptionHandler(_ => { });
    }

    private static Task WriteBodyAsync(HttpContext context)
    {
        object body = context.Response.StatusCode switch
        {
            StatusCodes.Status401Unauthorized => UnauthorizedResponse.BearerRequired,
            StatusCodes.Status403Forbidden => ErrorResponse.Forbidden,
            StatusCodes.Status404NotFound => ErrorResponse.RouteNotFound,
            StatusCodes.Status405MethodNotAllowed => ErrorResponse.MethodNotAllowed,
            StatusCodes.Status415UnsupportedMediaType => ErrorResponse.UnsupportedMediaType,
            StatusCodes.Status429TooManyRequests => ErrorResponse.TooManyRequests,
            >= StatusCodes.Status500InternalServerError => ErrorResponse.InternalError,
            _ => ErrorResponse.InvalidRequest("The request is not valid"),
        };
        return ResponseJson.WriteAsync(context.Response, body);
    }

    // ASP.NET Core does not log an exception that a handler reports as handled: RequestLogging does.
    private sealed class UnexpectedExceptionHandler : IExceptionHandler
    {
        // Clients that do not heed Retry-After would otherwise ask again at once, and take the processor from others.
        private static readonly TimeSpan s_pauseBeforeTooManyRequests = TimeSpan.FromMilliseconds(500);

        public async ValueTask<bool> TryHandleAsync(HttpContext httpContext, Exception exception, CancellationToken cancellationToken)
        {
            httpContext.Response.StatusCode = exception is BadHttpRequestException { StatusCode: StatusCodes.Status415UnsupportedMediaType } unsupported
                ? unsupported.StatusCode
                : StatusCodes.Status500InternalServerError;
            if (exception is TooManyLookupsException { IsCallerLimit: true })
            {
                httpContext.Response.StatusCode = StatusCodes.Status429TooManyRequests;
                httpContext.Response.Headers.RetryAfter = "1";
                await Task.Delay(s_pauseBeforeTooManyRequests, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }

            return true;
        }
    }
}
