using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>Which agents of a list are asked for, by the account that they use. What is null lets all pass.</summary>
/// <param name="Connected">Whether they use any.</param>
/// <param name="Type">As in responses.</param>
/// <param name="Status">In the form of <see cref="CalcomAccount.Comparable"/>.</param>
/// <param name="AccountId">The account's id.</param>
internal sealed record AgentAccountFilter(bool? Connected, string? Type, string? Status, Guid? AccountId)
{
    public static IReadOnlyList<string> Types { get; } = [.. Enum.GetValues<AccountType>().Select(WireNames.Of)];

    public bool IsEmpty => this is { Connected: null, Type: null, Status: null, AccountId: null };

    public static AgentAccountFilter Of(ListAgentAccounts query) => new(
        query["connected"] is { } connected ? connected is "true" : null,
        query["type"],
        CalcomAccount.Comparable(query["status"]),
        query["calcom_account_id"] is { } accountId ? Uuid.Parse(accountId) : null);

    public bool Matches(AgentAccount agent) => agent.Decision.Effective is var account
        && (Connected is null || Connected == account.Type is not AccountType.None)
        && (Type is null || Type == WireNames.Of(account.Type))
        && (Status is null || Status == CalcomAccount.Comparable(account.Status))
        && (AccountId is null || AccountId == account.Id);
}
