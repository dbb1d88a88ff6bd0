using CalcomAccounts.Domain;

namespace CalcomAccounts.Tests;

/// <summary>Section 2 of the contract, without a database.</summary>
public sealed class AccountResolverTests
{
    /// <summary>The contract's own words on what connected means, as a table: has a key, status as stored, connected, status as returned.</summary>
    internal static (bool HasApiKey, string? Status, bool Connected, string Returned)[] States { get; } =
    [
        (true, "active", true, "active"),
        (true, "error", true, "error"),
        (true, "never heard of", true, "never heard of"),
        (true, " Active ", true, " Active "),
        (true, "inactive now", true, "inactive now"),
        (true, null, true, "unknown"),
        (true, "", true, "unknown"),
        (true, " \t", true, "unknown"),
        (true, "inactive", false, ""),
        (true, "INACTIVE", false, ""),
        (true, " \tInactive\n", false, ""),
        (true, "not_connected", false, ""),
        (true, " Not_Connected ", false, ""),
        (false, "active", false, ""),
        (false, "error", false, ""),
        (false, null, false, ""),
        (false, "inactive", false, ""),
    ];

    public static TheoryData<int?, int?> KeyStatesAndLinkStates()
    {
        var data = new TheoryData<int?, int?>();
        for (var key = -1; key < States.Length; key++)
        {
            for (var link = -1; link < States.Length; link++)
            {
                data.Add(key < 0 ? null : key, link < 0 ? null : link);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(KeyStatesAndLinkStates))]
    public void TheOwnKeyWins_ThenTheLinkedAccount_ThenNone(int? keyState, int? linkState)
    {
        var key = keyState is { } k ? Account(States[k].HasApiKey, States[k].Status) : null;
        var linked = linkState is { } l ? Account(States[l].HasApiKey, States[l].Status) : null;

        var effective = AccountResolver.Resolve(new Agent(key is null ? [] : [key], linked));

        Assert.Equal(
            keyState is { } own && States[own].Connected
                ? new EffectiveAccount(AccountType.Agent, key!.Id, "Calendar", States[own].Returned, "https://cal.example")
            : linkState is { } org && States[org].Connected
                ? new EffectiveAccount(AccountType.OrgLinked, linked!.Id, "Calendar", States[org].Returned, "https://cal.example")
            : EffectiveAccount.None,
            effective);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData(" \t\n")]
    public void ABlankNameAndUrlAreReturnedAsTheDefaults(string? blank)
    {
        var effective = AccountResolver.Resolve(
            new Agent([Account(true, "active") with { Name = blank, ApiBaseUrl = blank }], null));

        Assert.Equal(("Default", "https://api.cal.com"), (effective.Name, effective.ApiBaseUrl));
    }

    [Fact]
    public void ANameAndUrlAreReturnedAsTheyAreStored()
    {
        var effective = AccountResolver.Resolve(
            new Agent([Account(true, "active") with { Name = " A ", ApiBaseUrl = " https://b " }], null));

        Assert.Equal((" A ", " https://b "), (effective.Name, effective.ApiBaseUrl));
    }

    [Fact]
    public void OfTwoConnectedKeysTheNewestWins_WhateverTheirOrderAndIds()
    {
        var older = Account(true, "active") with { Id = new("ffffffff-ffff-4fff-8fff-ffffffffffff") };
        var newer = Account(true, "error") with { Id = new("00000000-0000-4000-8000-000000000001"), CreatedAt = older.CreatedAt!.Value.AddTicks(10) };
        var undated = Account(true, "active") with { CreatedAt = null };

        Assert.Equal(newer.Id, AccountResolver.Resolve(new Agent([older, newer, undated], null)).Id);
        Assert.Equal(newer.Id, AccountResolver.Resolve(new Agent([undated, newer, older], null)).Id);
        Assert.Equal(older.Id, AccountResolver.Resolve(new Agent([undated, older], null)).Id);
    }

    // PostgreSQL compares UUIDs byte by byte as they are written; signed or little-endian comparison would differ here.
    [Theory]
    [InlineData("80000000-0000-4000-8000-000000000000", "7fffffff-ffff-4fff-8fff-ffffffffffff")]
    [InlineData("01000000-0000-4000-8000-000000000000", "00ff0000-0000-4000-8000-000000000000")]
    [InlineData("00000000-8000-4000-8000-000000000000", "00000000-7fff-4fff-8fff-ffffffffffff")]
    [InlineData("00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000001")]
    public void OfTwoConnectedKeysOfTheSameMomentTheGreatestIdWins(string greater, string lesser)
    {
        var keys = new[] { greater, lesser }.Select(id => Account(true, "active") with { Id = new(id) }).ToList();

        Assert.Equal(new Guid(greater), AccountResolver.Resolve(new Agent(keys, null)).Id);
        keys.Reverse();
        Assert.Equal(new Guid(greater), AccountResolver.Resolve(new Agent(keys, null)).Id);
    }

    [Fact]
    public void ADisconnectedKeyNeverHidesAnOlderConnectedOne()
    {
        var connected = Account(true, "error");
        var disconnected = Account(true, "inactive") with { CreatedAt = connected.CreatedAt!.Value.AddDays(1) };
        var withoutKey = Account(false, "active") with { CreatedAt = connected.CreatedAt!.Value.AddDays(2) };

        Assert.Equal(connected.Id, AccountResolver.Resolve(new Agent([disconnected, withoutKey, connected], Account(true, "active"))).Id);
    }

    private static CalcomAccount Account(bool hasApiKey, string? status) => new(
        Guid.NewGuid(), "Calendar", hasApiKey, "https://cal.example", status, new DateTime(2026, 1, 2, 3, 4, 5, DateTimeKind.Utc));
}
