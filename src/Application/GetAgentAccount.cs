using CalcomAccounts.Domain;
using FluentValidation;
using MediatR;

namespace CalcomAccounts.Application;

/// <summary>Asks for an agent's effective account; the answer is null when the agent is not there for this caller.</summary>
/// <param name="AgentId">The agent's UUID as it was sent; null when it was not.</param>
/// <param name="OrgIds">Every <c>org_id</c> of the query string as it was sent.</param>
/// <param name="Caller">Who asks.</param>
public sealed record GetAgentAccount(string? AgentId, IReadOnlyList<string?> OrgIds, Caller Caller)
    : IRequest<EffectiveAccount?>
{
    /// <summary>The <see cref="OrgIds"/> that count: none where the token itself names the organization.</summary>
    internal IReadOnlyList<string?> NeededOrgIds => Caller.Subject is null ? [] : OrgIds;
}

internal sealed class GetAgentAccountValidator : AbstractValidator<GetAgentAccount>
{
    public GetAgentAccountValidator()
    {
        RuleFor(query => query.AgentId)
            .Must(Uuid.IsValid).WithMessage("agent_id must be a UUID");
        RuleFor(query => query.NeededOrgIds)
            .Must(orgIds => orgIds.Count <= 1 && orgIds.All(Uuid.IsValid)).WithMessage("org_id must be a UUID, given once");
    }
}

internal sealed class GetAgentAccountHandler(IAgentReader reader) : IRequestHandler<GetAgentAccount, EffectiveAccount?>
{
    public async Task<EffectiveAccount?> Handle(GetAgentAccount query, CancellationToken cancellationToken)
    {
        var caller = query.NeededOrgIds is [var orgId] ? query.Caller.NarrowedTo(Uuid.Parse(orgId)) : query.Caller;
        var agent = await reader.FindAsync(Uuid.Parse(query.AgentId), caller, cancellationToken);
        return agent is null ? null : AccountResolver.Resolve(agent);
    }
}
