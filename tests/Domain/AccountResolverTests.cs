using CalcomAccounts.Domain;
using CsCheck;

namespace CalcomAccounts.Tests.Domain;

/// <summary>docs/account-resolution.md, without a database.</summary>
public sealed class AccountResolverTests
{
    private static readonly Gen<CalcomAccount> s_account = Gen.Select(Gen.Guid, Gen.Int[0, AccountStates.All.Length - 1], Gen.Int[0, 3]).Select((id, state, day) =>
        new CalcomAccount(id, null, AccountStates.All[state].HasApiKey, null, AccountStates.All[state].Status, day is 0 ? null : new DateTime(2026, 1, day, 0, 0, 0, DateTimeKind.Utc)));

    private static readonly Gen<Agent> s_agents = Gen.Select(s_account.List[0, 4], s_account, Gen.Int[0, 2]).Select((keys, linked, link) =>
        new Agent(keys, link is 0 ? null : linked.Id, link is 2 ? linked : null));

    public static TheoryData<int?, int?> KeyStatesAndLinkStates()
    {
        var data = new TheoryData<int?, int?>();
        for (var key = -1; key < AccountStates.All.Length; key++)
        {
            for (var link = -1; link < AccountStates.All.Length; link++)
            {
                data.Add(key < 0 ? null : key, link < 0 ? null : link);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(KeyStatesAndLinkStates))]
    public void KeyAndLinkStates_OwnKeyThenLinkedAccountThenNone(int? keyState, int? linkState)
    {
        var key = keyState is { } k ? Account(AccountStates.All[k].HasApiKey, AccountStates.All[k].Status) : null;
        var linked = linkState is { } l ? Account(AccountStates.All[l].HasApiKey, AccountStates.All[l].Status) : null;

        var effective = Effective(new Agent(key is null ? [] : [key], linked?.Id, linked));

        Assert.Equal(
            keyState is { } own && AccountStates.All[own].Connected
                ? new EffectiveAccount(AccountType.Agent, key!.Id, "Calendar", AccountStates.All[own].Returned, "https://cal.example")
            : linkState is { } org && AccountStates.All[org].Connected
                ? new EffectiveAccount(AccountType.OrgLinked, linked!.Id, "Calendar", AccountStates.All[org].Returned, "https://cal.example")
            : EffectiveAccount.None,
            effective);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData(" \t\n")]
    public void BlankNameAndUrl_BecomeTheDefaults(string? blank)
    {
        var effective = Effective(
            new Agent([Account(true, "active") with { Name = blank, ApiBaseUrl = blank }], null, null));

        Assert.Equal(("Default", "https://api.cal.com"), (effective.Name, effective.ApiBaseUrl));
    }

    [Fact]
    public void NameAndUrl_KeepTheirWhitespace()
    {
        var effective = Effective(
            new Agent([Account(true, "active") with { Name = " A ", ApiBaseUrl = " https://b " }], null, null));

        Assert.Equal((" A ", " https://b "), (effective.Name, effective.ApiBaseUrl));
    }

    [Fact]
    public void SeveralConnectedKeys_NewestIsUsedInAnyOrder()
    {
        var older = Account(true, "active") with { Id = new("ffffffff-ffff-4fff-8fff-ffffffffffff") };
        var newer = Account(true, "error") with { Id = new("00000000-0000-4000-8000-000000000001"), CreatedAt = older.CreatedAt!.Value.AddTicks(10) };
        var undated = Account(true, "active") with { CreatedAt = null };

        Assert.Equal(newer.Id, Effective(new Agent([older, newer, undated], null, null)).Id);
        Assert.Equal(newer.Id, Effective(new Agent([undated, newer, older], null, null)).Id);
        Assert.Equal(older.Id, Effective(new Agent([undated, older], null, null)).Id);
    }

    // PostgreSQL compares UUIDs byte by byte as they are written; signed or little-endian comparison would differ here.
    [Theory]
    [InlineData("80000000-0000-4000-8000-000000000000", "7fffffff-ffff-4fff-8fff-ffffffffffff")]
    [InlineData("01000000-0000-4000-8000-000000000000", "00ff0000-0000-4000-8000-000000000000")]
    [InlineData("00000000-8000-4000-8000-000000000000", "00000000-7fff-4fff-8fff-ffffffffffff")]
    [InlineData("00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000001")]
    public void ConnectedKeysWithEqualTimestamps_GreatestIdIsUsed(string greater, string lesser)
    {
        var keys = new[] { greater, lesser }.Select(id => Account(true, "active") with { Id = new(id) }).ToList();

        Assert.Equal(new Guid(greater), Effective(new Agent(keys, null, null)).Id);
        keys.Reverse();
        Assert.Equal(new Guid(greater), Effective(new Agent(keys, null, null)).Id);
    }

    [Fact]
    public void DisconnectedNewerKeys_OlderConnectedKeyIsUsed()
    {
        var connected = Account(true, "error");
        var disconnected = Account(true, "inactive") with { CreatedAt = connected.CreatedAt!.Value.AddDays(1) };
        var withoutKey = Account(false, "active") with { CreatedAt = connected.CreatedAt!.Value.AddDays(2) };

        var linked = Account(true, "active");
        Assert.Equal(connected.Id, Effective(new Agent([disconnected, withoutKey, connected], linked.Id, linked)).Id);
    }

    [Fact]
    public void Candidates_AreListedInOrderOfEvaluationWithReasons()
    {
        var linked = Account(true, "active");
        var used = Account(true, " ");
        var older = Account(true, "error") with { CreatedAt = used.CreatedAt!.Value.AddDays(-1) };
        var disconnected = Account(true, " Not_Connected ") with { CreatedAt = used.CreatedAt!.Value.AddDays(1) };
        var withoutKey = Account(false, "active") with { CreatedAt = used.CreatedAt!.Value.AddDays(2) };

        var decision = AccountResolver.Decide(new Agent([older, disconnected, used, withoutKey], linked.Id, linked));

        Assert.Equal(
            [
                new(AccountType.Agent, withoutKey.Id, "active", Reason.NoCredential),
                new(AccountType.Agent, disconnected.Id, " Not_Connected ", Reason.Inactive),
                new(AccountType.Agent, used.Id, "unknown", Reason.Used),
                new(AccountType.Agent, older.Id, "error", Reason.Outranked),
                new(AccountType.OrgLinked, linked.Id, "active", Reason.Outranked),
            ],
            decision.Candidates);
        Assert.Equal(used.Id, decision.Effective.Id);
    }

    // Disconnecting an account sets the status and clears the key.
    [Theory]
    [InlineData("inactive", Reason.Inactive)]
    [InlineData("not_connected", Reason.Inactive)]
    [InlineData("active", Reason.NoCredential)]
    [InlineData(null, Reason.NoCredential)]
    public void KeyWithoutCredential_ReasonFollowsTheStatus(string? status, Reason reason) =>
        Assert.Equal(reason, AccountResolver.Decide(new Agent([Account(false, status)], null, null)).Candidates[0].Reason);

    [Fact]
    public void MissingLinkedAccount_IsListedAsCandidate()
    {
        var gone = Guid.NewGuid();

        Assert.Equal([new(AccountType.OrgLinked, null, null, Reason.NotLinked)], AccountResolver.Decide(new Agent([], null, null)).Candidates);
        Assert.Equal([new(AccountType.OrgLinked, gone, null, Reason.Unavailable)], AccountResolver.Decide(new Agent([], gone, null)).Candidates);
    }

    [Fact]
    public void Decision_OfRandomAgents_MatchesItsCandidates() => s_agents.Sample(agent =>
    {
        var decision = AccountResolver.Decide(agent);

        // The rule of docs/account-resolution.md, written a second time.
        var connected = agent.Keys.OrderByDescending(key => key.CreatedAt).ThenByDescending(key => key.Id)
            .Select(key => (Type: AccountType.Agent, Account: key))
            .Concat(agent.LinkedAccount is { } linked ? [(AccountType.OrgLinked, linked)] : Array.Empty<(AccountType Type, CalcomAccount Account)>())
            .Where(candidate => candidate.Account.HasApiKey && candidate.Account.Status?.Trim().ToLowerInvariant() is not ("inactive" or "not_connected"))
            .ToList();
        var used = decision.Candidates.Where(candidate => candidate.Reason is Reason.Used).ToList();
        Assert.Equal(connected.Take(1).Select(first => (first.Type, (Guid?)first.Account.Id)), used.Select(candidate => (candidate.Type, candidate.Id)));
        Assert.Equal(connected.Skip(1).Select(other => (Guid?)other.Account.Id), decision.Candidates.Where(candidate => candidate.Reason is Reason.Outranked).Select(candidate => candidate.Id));
        Assert.Equal((used.SingleOrDefault()?.Type ?? AccountType.None, used.SingleOrDefault()?.Id, used.SingleOrDefault()?.Status), (decision.Effective.Type, decision.Effective.Id, decision.Effective.Status));
        Assert.Equal(agent.Keys.Count + 1, decision.Candidates.Count);
    });

    private static EffectiveAccount Effective(Agent agent) => AccountResolver.Decide(agent).Effective;

    private static CalcomAccount Account(bool hasApiKey, string? status) => new(
        Guid.NewGuid(), "Calendar", hasApiKey, "https://cal.example", status, new DateTime(2026, 1, 2, 3, 4, 5, DateTimeKind.Utc));
}
