using System.Text.Json.Serialization;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;

namespace CalcomAccounts.Api.Agents;

// The order of the properties is the order of the keys in every answer.

/// <summary>The answer to a request that found its agent.</summary>
public sealed record GetAgentCalcomAccountResponse(bool Success, string Message, AgentCalcomEffectiveAccountData Data)
{
    internal static GetAgentCalcomAccountResponse Of(Decision decision) =>
        new(true, "Agent Cal.com account retrieved", AgentCalcomEffectiveAccountData.Of(decision.Effective));
}

/// <summary>An agent's effective account; all but the first two keys are absent when there is none.</summary>
/// <param name="Connected">Stored state, not a live check of the key.</param>
/// <param name="Type"><c>agent</c>, <c>org_linked</c> or <c>none</c>.</param>
/// <param name="CalcomAccountId">The UUID of the agent's key or of the organization's account, in lower case.</param>
/// <param name="AccountName">Never blank.</param>
/// <param name="Status">As stored; <c>unknown</c> where nothing is.</param>
/// <param name="ApiBaseUrl">Data that a tenant chose: allow-list hosts before sending a key there.</param>
public sealed record AgentCalcomEffectiveAccountData(
    bool Connected, string Type, string? CalcomAccountId, string? AccountName, string? Status, string? ApiBaseUrl)
{
    internal static AgentCalcomEffectiveAccountData Of(EffectiveAccount account) => new(
        account.Type is not AccountType.None,
        WireNames.Of(account.Type),
        account.Id?.ToString("D"),
        account.Name,
        account.Status,
        account.ApiBaseUrl);
}

/// <summary>The answer to a request that asked why.</summary>
public sealed record ExplainAgentCalcomAccountResponse(bool Success, string Message, AgentCalcomExplanationData Data)
{
    internal static ExplainAgentCalcomAccountResponse Of(Decision decision) => new(
        true,
        "Agent Cal.com account explained",
        new(AgentCalcomEffectiveAccountData.Of(decision.Effective), [.. decision.Candidates.Select(CalcomCandidateData.Of)]));
}

/// <summary>An agent's effective account, and why it is that one.</summary>
/// <param name="Effective">What the account operation answers as its <c>data</c>.</param>
/// <param name="Candidates">What was considered, in that order: the agent's own keys, the newest first, then its link.</param>
public sealed record AgentCalcomExplanationData(
    AgentCalcomEffectiveAccountData Effective, IReadOnlyList<CalcomCandidateData> Candidates);

/// <summary>An account that was considered.</summary>
/// <param name="Type"><c>agent</c> or <c>org_linked</c>.</param>
/// <param name="CalcomAccountId">Its UUID, in lower case; absent when the agent is not linked.</param>
/// <param name="Status">As stored; <c>unknown</c> where nothing is; absent when there is no account to have one.</param>
/// <param name="Reason"><c>used</c>, <c>outranked</c>, <c>inactive</c>, <c>no_credential</c>, <c>not_linked</c> or <c>unavailable</c>.</param>
public sealed record CalcomCandidateData(string Type, string? CalcomAccountId, string? Status, string Reason)
{
    internal static CalcomCandidateData Of(Candidate candidate) => new(
        WireNames.Of(candidate.Type),
        candidate.Id?.ToString("D"),
        candidate.Status,
        WireNames.Of(candidate.Reason));
}

/// <summary>The answer to a request for many agents.</summary>
public sealed record GetAgentCalcomAccountsResponse(bool Success, string Message, AgentCalcomAccountsData Data)
{
    internal static GetAgentCalcomAccountsResponse Of(IReadOnlyList<string?> agentIds, IReadOnlyList<Decision?> decisions) => new(
        true,
        "Agent Cal.com accounts retrieved",
        new([.. agentIds.Zip(decisions, AgentCalcomAccountData.Of)]));
}

/// <summary>The accounts of many agents.</summary>
/// <param name="Accounts">In the order asked, duplicates included.</param>
public sealed record AgentCalcomAccountsData(IReadOnlyList<AgentCalcomAccountData> Accounts);

/// <summary>One of many.</summary>
/// <param name="AgentId">The UUID that was asked for, in lower case.</param>
/// <param name="Account">What the account operation answers as its <c>data</c>; null where it answers 404.</param>
public sealed record AgentCalcomAccountData(
    string AgentId, [property: JsonIgnore(Condition = JsonIgnoreCondition.Never)] AgentCalcomEffectiveAccountData? Account)
{
    internal static AgentCalcomAccountData Of(string? agentId, Decision? decision) => new(
        Uuid.Parse(agentId).ToString("D"), decision is null ? null : AgentCalcomEffectiveAccountData.Of(decision.Effective));
}

/// <summary>The answer to a request for an organization's agents.</summary>
public sealed record ListAgentCalcomAccountsResponse(bool Success, string Message, AgentCalcomAccountPageData Data)
{
    internal static ListAgentCalcomAccountsResponse Of(AgentAccountPage page) => new(
        true,
        "Agent Cal.com accounts retrieved",
        new([.. page.Agents.Select(ListedAgentCalcomAccountData.Of)], page.Next?.ToString("D")));
}

/// <summary>A page of an organization's agents.</summary>
/// <param name="Accounts">In ascending order of agent_id.</param>
/// <param name="Next">The value of after for the next page; absent on the last one.</param>
public sealed record AgentCalcomAccountPageData(IReadOnlyList<ListedAgentCalcomAccountData> Accounts, string? Next);

/// <summary>An agent of an organization.</summary>
/// <param name="AgentId">Its UUID, in lower case.</param>
/// <param name="AgentName">As stored.</param>
/// <param name="Account">What the account operation answers as its <c>data</c>.</param>
public sealed record ListedAgentCalcomAccountData(string AgentId, string AgentName, AgentCalcomEffectiveAccountData Account)
{
    internal static ListedAgentCalcomAccountData Of(AgentAccount agent) => new(
        agent.AgentId.ToString("D"), agent.AgentName, AgentCalcomEffectiveAccountData.Of(agent.Decision.Effective));
}
