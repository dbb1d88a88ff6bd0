using CalcomAccounts.Api.OpenApi;

namespace CalcomAccounts.Api.Http;

/// <summary>The headers that every answer has.</summary>
internal static class ResponseHeaders
{
    public static IApplicationBuilder UseResponseHeaders(this IApplicationBuilder app) => app.Use((context, next) =>
    {
        context.Response.OnStarting(SetAsync, context.Response);
        return next(context);
    });

    private static Task SetAsync(object response)
    {
        var headers = ((HttpResponse)response).Headers;
        if (headers.CacheControl != ApiDocument.AssetCacheControl)
        {
            headers.CacheControl = "no-store";
        }

        headers.XContentTypeOptions = "nosniff";

        // What the exception handler adds for HTTP/1.0 caches.
        headers.Remove("Pragma");
        headers.Remove("Expires");
        return Task.CompletedTask;
    }
}
