using CalcomAccounts.Application;
using MediatR;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Mvc;
using Microsoft.AspNetCore.Mvc.ModelBinding;
using NSwag.Annotations;

namespace CalcomAccounts.Api;

/// <summary>The agents' Cal.com accounts over HTTP.</summary>
[ApiController]
[Route("api/v1/calcom/agents")]
[OpenApiTag("CalComService")]
public sealed class AgentsController(IMediator mediator) : ControllerBase
{
    /// <summary>Get Agent Cal.com Account</summary>
    /// <response code="200">Agent Cal.com account retrieved</response>
    /// <response code="400">Missing agent_id</response>
    /// <response code="401">Missing or invalid JWT</response>
    /// <response code="404">Agent not found</response>
    /// <response code="500">Unexpected error</response>
    [AcceptVerbs("GET", "HEAD", Route = "{agent_id}/account")]
    [OpenApiOperation(nameof(GetAgentCalcomAccount))]
    [ProducesResponseType<GetAgentCalcomAccountResponse>(StatusCodes.Status200OK)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status400BadRequest)]
    [ProducesResponseType<UnauthorizedResponse>(StatusCodes.Status401Unauthorized)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status404NotFound)]
    [ProducesResponseType<ErrorResponse>(StatusCodes.Status500InternalServerError)]
    public async Task<IActionResult> GetAgentCalcomAccount(
        [ModelBinder<GetAgentAccountBinder>, OpenApiIgnore] GetAgentAccount query, CancellationToken cancellationToken)
    {
        if (await mediator.Send(query, cancellationToken) is not { } account)
        {
            return NotFound();
        }

        var response = GetAgentCalcomAccountResponse.Of(account);
        HttpContext.Features.Set(response.Data);
        return new JsonAnswer(StatusCodes.Status200OK, response);
    }
}

// MVC's own binders would turn an empty org_id into an absent one, and drop all but the first.
internal sealed class GetAgentAccountBinder : IModelBinder
{
    public Task BindModelAsync(ModelBindingContext bindingContext)
    {
        var context = bindingContext.HttpContext;
        bindingContext.Result = ModelBindingResult.Success(new GetAgentAccount(
            (string?)context.GetRouteValue("agent_id"),
            context.Request.Query["org_id"],
            context.Features.GetRequiredFeature<Caller>()));
        return Task.CompletedTask;
    }
}
