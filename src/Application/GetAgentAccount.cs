using CalcomAccounts.Domain;
using FluentValidation;
using MediatR;

namespace CalcomAccounts.Application;

/// <summary>Which account an agent uses, and why. The result is null for an agent that this caller can't see.</summary>
/// <param name="AgentId">The agent's UUID as it was sent; null when none was.</param>
/// <param name="Scope">Whose agents may be read.</param>
public sealed record GetAgentAccount(string? AgentId, OrganizationScope Scope) : IRequest<Decision?>
{
    /// <summary>The OpenAPI operation id, which labels metrics.</summary>
    public string Operation { get; init; } = "GetAgentCalcomAccount";
}

internal sealed class GetAgentAccountValidator : AbstractValidator<GetAgentAccount>
{
    public GetAgentAccountValidator()
    {
        RuleFor(query => query.AgentId).Must(Uuid.IsValid).WithMessage("agent_id must be a UUID");
        RuleFor(query => query.Scope).Must(scope => scope.IsValid).WithMessage(OrganizationScope.ValidationMessage);
    }
}

internal sealed class GetAgentAccountHandler(IAgentReader reader) : IRequestHandler<GetAgentAccount, Decision?>
{
    public async Task<Decision?> Handle(GetAgentAccount query, CancellationToken cancellationToken)
    {
        var agents = await reader.FindAsync([Uuid.Parse(query.AgentId)], query.Scope.ToCaller(), cancellationToken);
        return agents[0] is { } agent ? AccountResolver.Decide(agent) : null;
    }
}
