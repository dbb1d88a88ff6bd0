using CalcomAccounts.Domain;
using FluentValidation;
using MediatR;

namespace CalcomAccounts.Application;

/// <summary>
/// Which accounts several agents use, and why. The results are in the order of the ids, and null for an agent that this caller can't
/// see.
/// </summary>
/// <param name="AgentIds">The agents' UUIDs as they were sent, null for an element that is not text; null when no list was sent.</param>
/// <param name="Scope">Whose agents may be read.</param>
public sealed record GetAgentAccounts(IReadOnlyList<string?>? AgentIds, OrganizationScope Scope) : IRequest<IReadOnlyList<Decision?>>
{
    /// <summary>The OpenAPI operation id, which labels metrics.</summary>
    public const string Operation = "GetAgentCalcomAccounts";

    /// <summary>The most ids that one request may have.</summary>
    public const int MaxAgents = 100;
}

internal sealed class GetAgentAccountsValidator : AbstractValidator<GetAgentAccounts>
{
    public GetAgentAccountsValidator()
    {
        RuleFor(query => query.AgentIds)
            .Must(agentIds => agentIds is { Count: >= 1 and <= GetAgentAccounts.MaxAgents })
            .WithMessage($"the body must be a JSON object that holds agent_ids, a list of 1 to {GetAgentAccounts.MaxAgents} UUIDs, and nothing else but org_id")
            .DependentRules(() => RuleForEach(query => query.AgentIds)
                .Must(Uuid.IsValid).WithMessage("agent_ids[{CollectionIndex}] must be a UUID"));
        RuleFor(query => query.Scope).Must(scope => scope.IsValid).WithMessage(OrganizationScope.ValidationMessage);
    }
}

internal sealed class GetAgentAccountsHandler(IAgentReader reader) : IRequestHandler<GetAgentAccounts, IReadOnlyList<Decision?>>
{
    public async Task<IReadOnlyList<Decision?>> Handle(GetAgentAccounts query, CancellationToken cancellationToken)
    {
        var agents = await reader.FindAsync([.. query.AgentIds!.Select(Uuid.Parse)], query.Scope.ToCaller(), cancellationToken);

        // An id that is sent many times is resolved once.
        var decisions = new Dictionary<Agent, Decision>(ReferenceEqualityComparer.Instance);
        foreach (var agent in agents.OfType<Agent>())
        {
            decisions.TryAdd(agent, decisions.GetValueOrDefault(agent) ?? AccountResolver.Decide(agent));
        }

        return [.. agents.Select(agent => agent is null ? null : decisions[agent])];
    }
}
