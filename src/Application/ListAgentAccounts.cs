using System.Globalization;
using CalcomAccounts.Domain;
using FluentValidation;
using MediatR;

namespace CalcomAccounts.Application;

/// <summary>Which accounts an organization's agents use, page by page: <c>docs/api.md</c>.</summary>
/// <param name="Scope">Whose agents may be read; it has to name an organization.</param>
/// <param name="Parameters">Every parameter as it was sent, by its name.</param>
public sealed record ListAgentAccounts(OrganizationScope Scope, IReadOnlyDictionary<string, IReadOnlyList<string?>> Parameters) : IRequest<AgentAccountPage>
{
    /// <summary>The OpenAPI operation id, which labels metrics.</summary>
    public const string Operation = "ListAgentCalcomAccounts";

    /// <summary>The most agents that a page may have.</summary>
    public const int MaxLimit = 100;

    /// <summary>How many a page has where the request does not say.</summary>
    public const int DefaultLimit = 50;

    /// <summary>How many agents one request looks at, however few of them its filters let pass.</summary>
    public const int MaxAgents = 1000;

    internal string? this[string name] => Parameters.TryGetValue(name, out var values) ? values[0] : null;
}

/// <summary>A page of an organization's agents.</summary>
/// <param name="Agents">In ascending order of their ids.</param>
/// <param name="Next">After which agent the next page begins; null where there is none.</param>
public sealed record AgentAccountPage(IReadOnlyList<AgentAccount> Agents, Guid? Next);

/// <summary>An agent, and the account that it uses.</summary>
/// <param name="AgentId">Its id.</param>
/// <param name="AgentName">As stored; empty where nothing is.</param>
/// <param name="Decision">What the account operation decides, of the best-ranked key and the link alone.</param>
public sealed record AgentAccount(Guid AgentId, string AgentName, Decision Decision);

internal sealed class ListAgentAccountsValidator : AbstractValidator<ListAgentAccounts>
{
    // Names that are no longer and no stranger are repeated in messages.
    private const int MaxNameLength = 64;

    private static readonly Dictionary<string, (Func<string, bool> IsValid, string Meaning)> s_parameters = new(StringComparer.OrdinalIgnoreCase)
    {
        ["limit"] = (text => text is [>= '1' and <= '9', ..] and { Length: <= 3 } && text.All(char.IsAsciiDigit) && int.Parse(text, CultureInfo.InvariantCulture) <= ListAgentAccounts.MaxLimit, $"a number from 1 to {ListAgentAccounts.MaxLimit}"),
        ["after"] = (Uuid.IsValid, "a UUID"),
        ["connected"] = (text => text is "true" or "false", "true or false"),
        ["type"] = (text => AgentAccountFilter.Types.Contains(text), string.Join(", ", AgentAccountFilter.Types)),
        ["status"] = (text => !string.IsNullOrWhiteSpace(text), "a word"),
        ["calcom_account_id"] = (Uuid.IsValid, "a UUID"),
    };

    public ListAgentAccountsValidator()
    {
        RuleFor(query => query.Scope).Must(scope => scope.IsValid).WithMessage(OrganizationScope.ValidationMessage)
            .DependentRules(() => RuleFor(query => query.Scope).Must(scope => scope.ToCaller().OrgId is not null)
                .WithMessage("org_id is needed, as the token names no organization"));
        RuleForEach(query => query.Parameters).Custom((parameter, context) =>
        {
            var (name, values) = parameter;
            if (name.Equals("org_id", StringComparison.OrdinalIgnoreCase))
            {
                return;
            }

            if (!s_parameters.TryGetValue(name, out var known))
            {
                var isName = name.Length is > 0 and <= MaxNameLength && name.All(character => char.IsAsciiLetterOrDigit(character) || character is '_');
                context.AddFailure($"{(isName ? name : "one of the names")} is no parameter; there are org_id, {string.Join(", ", s_parameters.Keys)}");
            }
            else if (values is not [{ } value] || !known.IsValid(value))
            {
                context.AddFailure($"{name.ToLowerInvariant()} must be {known.Meaning}, given once");
            }
        });
    }
}

internal sealed class ListAgentAccountsHandler(IAgentReader reader) : IRequestHandler<ListAgentAccounts, AgentAccountPage>
{
    public async Task<AgentAccountPage> Handle(ListAgentAccounts query, CancellationToken cancellationToken)
    {
        var filter = AgentAccountFilter.Of(query);
        var limit = query["limit"] is { } number ? int.Parse(number, CultureInfo.InvariantCulture) : ListAgentAccounts.DefaultLimit;
        var looksAt = filter.IsEmpty ? limit : ListAgentAccounts.MaxAgents;
        var after = query["after"] is { } id ? Uuid.Parse(id) : (Guid?)null;

        // One more shows whether there is a next page.
        var agents = await reader.ListAsync(query.Scope.ToCaller(), after, looksAt + 1, cancellationToken);
        var matching = agents.Take(looksAt)
            .Select(agent => new AgentAccount(agent.Id, agent.Name, AccountResolver.Decide(agent.Agent)))
            .Where(filter.Matches)
            .Take(limit + 1)
            .ToList();
        return matching.Count > limit ? new(matching[..limit], matching[limit - 1].AgentId)
            : new(matching, agents.Count > looksAt ? agents[looksAt - 1].Id : null);
    }
}
