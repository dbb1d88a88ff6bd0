using CalcomAccounts.Domain;
using FluentValidation;
using MediatR;

namespace CalcomAccounts.Application;

/// <summary>Asks which account an agent uses, and why; the answer is null when the agent is not there for this caller.</summary>
/// <param name="AgentId">The agent's UUID as it was sent; null when it was not.</param>
/// <param name="Scope">Who asks.</param>
public sealed record GetAgentAccount(string? AgentId, OrganizationScope Scope) : IRequest<Decision?>
{
    /// <summary>The operation that asks, for metrics.</summary>
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
