namespace CalcomAccounts.Infrastructure.Diagnostics;

/// <summary>How many rows need one of the special rules of docs/account-resolution.md.</summary>
/// <param name="Agents">Agents that are not deleted. The next four are some of these.</param>
/// <param name="TwoConnectedKeys">Agents with two or more connected keys: the newest is used.</param>
/// <param name="KeyAndLink">Agents with a connected key and a link: the key is used.</param>
/// <param name="DanglingLink">Agents with a link to an account that does not exist.</param>
/// <param name="ForeignLink">Agents with a link to another organization's account.</param>
/// <param name="BlankName">Keys and accounts with a blank name: it becomes <c>Default</c>.</param>
/// <param name="LongText">Keys and accounts with a text longer than the service's own tables allow: it is cut after 2,048 characters.</param>
public sealed record DatabaseCounts(long Agents, long TwoConnectedKeys, long KeyAndLink, long DanglingLink, long ForeignLink, long BlankName, long LongText);
