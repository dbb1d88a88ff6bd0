namespace CalcomAccounts.Api.Http;

/// <summary>The answer to a request that failed for any reason but its token.</summary>
public sealed record ErrorResponse(bool Success, string Message, string Code)
{
    internal static ErrorResponse AgentNotFound { get; } = new(false, "Agent not found", "NOT_FOUND");

    internal static ErrorResponse Forbidden { get; } = new(false, "The token lacks a scope or role that this service asks for", "FORBIDDEN");

    internal static ErrorResponse RouteNotFound { get; } = new(false, "Route not found", "NOT_FOUND");

    internal static ErrorResponse MethodNotAllowed { get; } = new(false, "Method not allowed", "METHOD_NOT_ALLOWED");

    internal static ErrorResponse UnsupportedMediaType { get; } = new(false, "Content-Type must be application/json, and the body not compressed", "UNSUPPORTED_MEDIA_TYPE");

    internal static ErrorResponse TooManyRequests { get; } = new(false, "Too many of your requests are waiting; try again in a second", "TOO_MANY_REQUESTS");

    internal static ErrorResponse InternalError { get; } = new(false, "Something went wrong; try again", "INTERNAL_ERROR");

    internal static ErrorResponse InvalidRequest(string message) => new(false, message, "INVALID_REQUEST");
}

/// <summary>The answer to a request without a valid token. It has no code.</summary>
public sealed record UnauthorizedResponse(bool Success, string Message)
{
    internal static UnauthorizedResponse BearerRequired { get; } =
        new(false, "A valid JWT is required, as 'Authorization: Bearer <token>'");
}
