using CalcomAccounts.Api.Http;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using MediatR;
using Microsoft.AspNetCore.Mvc;
using NSwag.Annotations;

namespace CalcomAccounts.Api.Agents;

/// <summary>The agents' Cal.com accounts over HTTP.</summary>
[ApiController]
[Route("api/v1/calcom/agents")]
[OpenApiTag("CalComService")]
[ProducesResponseType<ErrorResponse>(StatusCodes.Status400BadRequest)]
[ProducesResponseType<UnauthorizedResponse>(StatusCodes.Status401Unauthorized)]
[ProducesResponseType<ErrorResponse>(StatusCodes.Status500InternalServerError)]
public sealed class AgentsController(IMediator mediator, RequestLogDetails details) : ControllerBase
{
    /// <summary>Get Agent Cal.com Account</summary>
    /// <remarks>Which Cal.com account the agent uses right now: its own key's, else the linked organization account's, else none.</remarks>
    /// <response code="200">Agent Cal.com account retrieved</response>
    /// <response code="400">Missing agent_id</response>
    /// <response code="401">Missing or invalid JWT</response>
    /// <response code="404">Agent not found</response>
    /// <response code="500">Unexpected error</response>
    [AcceptVerbs("GET", "HEAD", Route = "{agent_id}/account")]
    [OpenApiOperation(nameof(GetAgentCalcomAccount))]
    [ProducesResponseType<GetAgentCalcomAccountResponse>(StatusCodes.Status200OK)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status404NotFound)]
    public async Task<IActionResult> GetAgentCalcomAccount(
        [ModelBinder<GetAgentAccountBinder>, OpenApiIgnore] GetAgentAccount query) =>
        await DecideAsync(query) is { } decision ? Answer(GetAgentCalcomAccountResponse.Of(decision)) : AgentNotFound();

    /// <summary>Explain Agent Cal.com Account</summary>
    /// <remarks>The same account, and for each account that could have been it the reason why it is or is not.</remarks>
    /// <response code="200">Agent Cal.com account explained</response>
    /// <response code="400">Missing agent_id</response>
    /// <response code="401">Missing or invalid JWT</response>
    /// <response code="403">The token lacks a scope or role</response>
    /// <response code="404">Agent not found</response>
    /// <response code="429">Too many of the caller's lookups are waiting</response>
    /// <response code="500">Unexpected error</response>
    [AcceptVerbs("GET", "HEAD", Route = "{agent_id}/account/explain")]
    [OpenApiOperation(nameof(ExplainAgentCalcomAccount))]
    [ProducesResponseType<ExplainAgentCalcomAccountResponse>(StatusCodes.Status200OK)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status403Forbidden)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status404NotFound)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status429TooManyRequests)]
    public async Task<IActionResult> ExplainAgentCalcomAccount(
        [ModelBinder<GetAgentAccountBinder>, OpenApiIgnore] GetAgentAccount query) =>
        await DecideAsync(query with { Operation = nameof(ExplainAgentCalcomAccount) }) is { } decision
            ? Answer(ExplainAgentCalcomAccountResponse.Of(decision))
            : AgentNotFound();

    /// <summary>Get Cal.com Accounts of Many Agents</summary>
    /// <remarks>The same for up to 100 agents, in the order asked. An agent that is not found has the account null.</remarks>
    /// <response code="200">Agent Cal.com accounts retrieved</response>
    /// <response code="400">No list of 1 to 100 UUIDs</response>
    /// <response code="401">Missing or invalid JWT</response>
    /// <response code="403">The token lacks a scope or role</response>
    /// <response code="415">The body is not application/json</response>
    /// <response code="429">Too many of the caller's lookups are waiting</response>
    /// <response code="500">Unexpected error</response>
    [HttpPost("accounts")]
    [RequestSizeLimit(64 * 1024)]
    [OpenApiOperation(nameof(GetAgentCalcomAccounts))]
    [ProducesResponseType<GetAgentCalcomAccountsResponse>(StatusCodes.Status200OK)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status403Forbidden)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status415UnsupportedMediaType)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status429TooManyRequests)]
    public async Task<IActionResult> GetAgentCalcomAccounts(
        [ModelBinder<GetAgentAccountsBinder>, OpenApiIgnore] GetAgentAccounts query)
    {
        var decisions = await mediator.Send(query, HttpContext.RequestAborted);
        details.Agents = decisions.Count;
        return Answer(GetAgentCalcomAccountsResponse.Of(query.AgentIds!, decisions));
    }

    /// <summary>List an Organization's Agents with Their Cal.com Accounts</summary>
    /// <remarks>
    /// In ascending order of agent_id, page by page, filtered by the account that they use. A request looks at 1,000 agents at most, so
    /// that a page with filters may be short or empty and still have a next one.
    /// </remarks>
    /// <response code="200">Agent Cal.com accounts retrieved</response>
    /// <response code="400">A parameter is unknown or malformed, or no organization is named</response>
    /// <response code="401">Missing or invalid JWT</response>
    /// <response code="403">The token lacks a scope or role</response>
    /// <response code="429">Too many of the caller's lookups are waiting</response>
    /// <response code="500">Unexpected error</response>
    [AcceptVerbs("GET", "HEAD", Route = "accounts")]
    [OpenApiOperation(nameof(ListAgentCalcomAccounts))]
    [ProducesResponseType<ListAgentCalcomAccountsResponse>(StatusCodes.Status200OK)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status403Forbidden)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status429TooManyRequests)]
    public async Task<IActionResult> ListAgentCalcomAccounts(
        [ModelBinder<ListAgentAccountsBinder>, OpenApiIgnore] ListAgentAccounts query)
    {
        var page = await mediator.Send(query, HttpContext.RequestAborted);
        details.Agents = page.Agents.Count;
        return Answer(ListAgentCalcomAccountsResponse.Of(page));
    }

    private async Task<Decision?> DecideAsync(GetAgentAccount query)
    {
        // A parameter for the token would cost as much binding as the query's.
        details.Decision = await mediator.Send(query, HttpContext.RequestAborted);
        return details.Decision;
    }

    private static JsonAnswer AgentNotFound() => new(StatusCodes.Status404NotFound, ErrorResponse.AgentNotFound);

    private static JsonAnswer Answer(object response) => new(StatusCodes.Status200OK, response);
}
