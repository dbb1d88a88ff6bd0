using CalcomAccounts.Domain;

namespace CalcomAccounts.Api.Http;

/// <summary>What a request's line in the log tells beside its status: one for each request, filled in by who decides it.</summary>
public sealed class RequestLogDetails
{
    /// <summary>What the account of the agent that was asked for is, and why; null where none was found, or many were asked for.</summary>
    public Decision? Decision { get; set; }

    /// <summary>How many agents the answer has; null where one was asked for, or none answered.</summary>
    public int? Agents { get; set; }

    /// <summary>Why the request's token was refused; null where it was not.</summary>
    public string? Reason { get; set; }
}
