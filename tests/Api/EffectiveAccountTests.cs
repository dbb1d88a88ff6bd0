using System.Text.Json;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/api.md and docs/account-resolution.md over HTTP: the exact responses.</summary>
public sealed class EffectiveAccountTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string None =
        """{"success":true,"message":"Agent Cal.com account retrieved","data":{"connected":false,"type":"none"}}""";

    private readonly Guid _org = Guid.NewGuid();

    public enum Link
    {
        NotLinked,
        Connected,
        InTrouble,
        WithoutStatus,
        Inactive,
        NotConnected,
        WithoutKey,
        Missing,
        Foreign,
    }

    public static TheoryData<int?, Link> KeyStatesAndLinks()
    {
        var data = new TheoryData<int?, Link>();
        foreach (var link in Enum.GetValues<Link>())
        {
            data.Add(null, link);
            for (var key = 0; key < AccountStates.All.Length; key++)
            {
                data.Add(key, link);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(KeyStatesAndLinks))]
    public async Task EveryKeyStateAndLinkState_ResolvesToTheExpectedAccount(int? keyState, Link link)
    {
        var views = fixture.Views;
        var linked = link switch
        {
            Link.NotLinked => (Guid?)null,
            Link.Missing => Guid.NewGuid(),
            Link.Foreign => await views.AddOrgAccountAsync(Guid.NewGuid(), new()),
            Link.Connected => await views.AddOrgAccountAsync(_org, new()),
            Link.InTrouble => await views.AddOrgAccountAsync(_org, new() { Status = "Error" }),
            Link.WithoutStatus => await views.AddOrgAccountAsync(_org, new() { Status = null }),
            Link.Inactive => await views.AddOrgAccountAsync(_org, new() { Status = " INACTIVE" }),
            Link.NotConnected => await views.AddOrgAccountAsync(_org, new() { Status = "not_connected" }),
            Link.WithoutKey => await views.AddOrgAccountAsync(_org, new() { ApiKey = null }),
            _ => throw new ArgumentOutOfRangeException(nameof(link)),
        };
        var agent = await views.AddAgentAsync(_org, linked);
        var (hasApiKey, status, ownKeyCounts, returned) = keyState is { } state ? AccountStates.All[state] : (false, null, false, "");
        var key = keyState is null
            ? Guid.Empty
            : await views.AddKeyAsync(agent, new() { Status = status, ApiKey = hasApiKey ? "cal_secret" : null });

        var answer = await fixture.ServiceOnViews.GetAccountAsync(agent, Tokens.OfOrganization(_org));

        Assert.Equal(200, answer.Status);
        Assert.Equal(
            ownKeyCounts ? Account("agent", key, status: returned)
            : link is Link.Connected ? Account("org_linked", linked!.Value, status: "active")
            : link is Link.InTrouble ? Account("org_linked", linked!.Value, status: "Error")
            : link is Link.WithoutStatus ? Account("org_linked", linked!.Value, status: "unknown")
            : None,
            answer.Body);

        var data = Data(answer);
        var explained = Data(await fixture.ServiceOnViews.ExplainAccountAsync(agent, Tokens.OfOrganization(_org)));
        Assert.Equal(data.GetRawText(), explained.GetProperty("effective").GetRawText());
        Assert.Equal(Candidates(keyState, key, link, linked), explained.GetProperty("candidates").GetRawText());

        var many = Data(await fixture.ServiceOnViews.GetAccountsAsync([agent], Tokens.OfOrganization(_org)));
        Assert.Equal(data.GetRawText(), Assert.Single(many.GetProperty("accounts").EnumerateArray()).GetProperty("account").GetRawText());

        Assert.Equal(answer.Body, (await fixture.DistributedServiceOnViews.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Body);
        Assert.Equal(explained.GetRawText(), Data(await fixture.DistributedServiceOnViews.ExplainAccountAsync(agent, Tokens.OfOrganization(_org))).GetRawText());
    }

    [Fact]
    public async Task Explanation_ListsCandidatesInOrderWithReasons()
    {
        var agent = await fixture.Views.AddAgentAsync(_org, Guid.NewGuid());
        var key = new StoredAccount { Status = null };
        await fixture.Views.AddKeyAsync(agent, key);
        var older = key with { Id = Guid.NewGuid(), CreatedAt = key.CreatedAt.AddDays(-1), ApiKey = null, Status = "inactive" };
        await fixture.Views.AddKeyAsync(agent, older);
        var link = Assert.Single(await fixture.Views.QueryAsync<Guid>($"select org_account_id from calcom.agents where id = '{agent}'"));

        var answer = await fixture.ServiceOnViews.ExplainAccountAsync(agent, Tokens.OfOrganization(_org));

        Assert.Equal(
            $$$"""{"success":true,"message":"Agent Cal.com account explained","data":{"effective":{"connected":true,"type":"agent","calcom_account_id":"{{{key.Id}}}","account_name":"Calendar","status":"unknown","api_base_url":"https://cal.example/api"},"candidates":[{"type":"agent","calcom_account_id":"{{{key.Id}}}","status":"unknown","reason":"used"},{"type":"agent","calcom_account_id":"{{{older.Id}}}","status":"inactive","reason":"inactive"},{"type":"org_linked","calcom_account_id":"{{{link}}}","reason":"unavailable"}]}}""",
            answer.Body);
    }

    [Fact]
    public async Task OwnTables_EveryOutcome_IsReturned()
    {
        var account = await fixture.Tables.AddOrgAccountAsync(_org, new());
        var linked = await fixture.Tables.AddAgentAsync(_org, account);
        var ownKey = await fixture.Tables.AddAgentAsync(_org, account);
        var key = await fixture.Tables.AddKeyAsync(ownKey, new());
        var neither = await fixture.Tables.AddAgentAsync(_org);

        Assert.Equal(Account("agent", key), (await GetAsync(ownKey)).Body);
        Assert.Equal(Account("org_linked", account), (await GetAsync(linked)).Body);
        Assert.Equal(None, (await GetAsync(neither)).Body);
    }

    [Fact]
    public async Task OwnTables_KeyWithColumnDefaults_ReturnsTheDefaults()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var key = Assert.Single(await fixture.Tables.QueryAsync<Guid>(
            "insert into calcom.agent_keys (org_id, agent_id, api_key) values (@_org, @agent, 'cal_secret') returning id", new { _org, agent }));

        Assert.Equal(
            $$$"""{"success":true,"message":"Agent Cal.com account retrieved","data":{"connected":true,"type":"agent","calcom_account_id":"{{{key}}}","account_name":"Default","status":"active","api_base_url":"https://api.cal.com"}}""",
            (await GetAsync(agent)).Body);
    }

    [Fact]
    public async Task UnlinkedAccountAndKeyOfAnotherAgent_AreNotUsed()
    {
        await fixture.Tables.AddOrgAccountAsync(_org, new());
        var disconnected = await fixture.Tables.AddOrgAccountAsync(_org, new() { Status = "inactive" });
        await fixture.Tables.AddKeyAsync(await fixture.Tables.AddAgentAsync(_org), new());

        Assert.Equal(None, (await GetAsync(await fixture.Tables.AddAgentAsync(_org))).Body);
        Assert.Equal(None, (await GetAsync(await fixture.Tables.AddAgentAsync(_org, disconnected))).Body);
    }

    [Fact]
    public async Task SeveralConnectedKeys_NewestThenGreatestIdIsUsed()
    {
        var agent = await fixture.Views.AddAgentAsync(_org);
        var first = new StoredAccount { Id = new("f0000000-0000-4000-8000-000000000000") };
        var newer = first with { Id = new("10000000-0000-4000-8000-000000000000"), CreatedAt = first.CreatedAt.AddMilliseconds(1) };
        var sameMoment = newer with { Id = new("90000000-0000-4000-8000-000000000000") };
        foreach (var key in new[] { sameMoment, first, newer })
        {
            await fixture.Views.AddKeyAsync(agent, key);
        }

        Assert.Equal(Account("agent", sameMoment.Id), (await fixture.ServiceOnViews.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Body);
    }

    // PostgreSQL supports more years than .NET.
    [Fact]
    public async Task KeysWithExtremeTimestamps_NewestIsUsed()
    {
        var agent = await fixture.Views.AddAgentAsync(_org);
        string?[] fromOldest = [null, "4000-01-01 BC", "0002-01-01", "2026-01-01", "9999-12-31 23:59:59.999999+00", "294276-12-31 23:59:59.999999+00"];
        foreach (var (createdAt, idFromGreatest) in fromOldest.Zip("987654"))
        {
            var key = await fixture.Views.AddKeyAsync(agent, new() { Id = new($"{idFromGreatest}0000000-0000-4000-8000-000000000000") });
            await fixture.Views.ExecuteAsync("update public.assistant_secrets set created_at = cast(@createdAt as timestamptz) where id = @key", new { createdAt, key });

            Assert.Equal(Account("agent", key), (await fixture.ServiceOnViews.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Body);
        }
    }

    [Fact]
    public async Task DuplicateAccountRows_IdenticalAreAcceptedAndDifferentReturn500()
    {
        var account = new StoredAccount();
        var agent = await fixture.Views.AddAgentAsync(_org, account.Id);
        await fixture.Views.AddOrgAccountAsync(_org, account);
        await fixture.Views.AddOrgAccountAsync(_org, account);
        Assert.Equal(Account("org_linked", account.Id), (await fixture.ServiceOnViews.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Body);

        await fixture.Views.AddOrgAccountAsync(_org, account with { Status = "inactive" });
        Assert.Equal(500, (await fixture.ServiceOnViews.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Status);
    }

    [Fact]
    public async Task ChangedData_IsReturnedByTheNextRequest()
    {
        var account = await fixture.Tables.AddOrgAccountAsync(_org, new());
        var agent = await fixture.Tables.AddAgentAsync(_org, account);
        var key = await fixture.Tables.AddKeyAsync(agent, new());
        Assert.Equal(Account("agent", key), (await GetAsync(agent)).Body);

        await fixture.Tables.ExecuteAsync("update calcom.agent_keys set status = 'inactive', api_key = null where id = @key", new { key });
        Assert.Equal(Account("org_linked", account), (await GetAsync(agent)).Body);

        await fixture.Tables.ExecuteAsync("update calcom.org_accounts set status = 'error' where id = @account", new { account });
        Assert.Equal(Account("org_linked", account, status: "error"), (await GetAsync(agent)).Body);

        await fixture.Tables.ExecuteAsync("update calcom.agents set org_account_id = null where id = @agent", new { agent });
        Assert.Equal(None, (await GetAsync(agent)).Body);

        await fixture.Tables.ExecuteAsync("update calcom.agents set deleted_at = now() where id = @agent", new { agent });
        Assert.Equal(404, (await GetAsync(agent)).Status);
    }

    [Theory]
    [InlineData("Zoë's <b>\"Kalender\"</b> & 日本 🗓")]
    [InlineData("tab\tand\\line\nfeed")]
    public async Task SpecialCharacters_AreReturnedAsStored(string text)
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        await fixture.Tables.AddKeyAsync(agent, new() { Name = text, Status = text, ApiBaseUrl = text });

        using var body = JsonDocument.Parse((await GetAsync(agent)).Body);
        var data = body.RootElement.GetProperty("data");

        Assert.All(["account_name", "status", "api_base_url"], key => Assert.Equal(text, data.GetProperty(key).GetString()));
    }

    private Task<Answer> GetAsync(Guid agent) => fixture.Service.GetAccountAsync(agent, Tokens.OfOrganization(_org));

    private static JsonElement Data(Answer answer) => JsonDocument.Parse(answer.Body).RootElement.GetProperty("data");

    // The expected candidates, from the documented meaning of each reason.
    private static string Candidates(int? keyState, Guid key, Link link, Guid? linked)
    {
        var (hasApiKey, status, connected, _) = keyState is { } state ? AccountStates.All[state] : default;
        var candidates = new List<string>();
        if (keyState is not null)
        {
            var isDisconnected = status?.Trim().ToLowerInvariant() is "inactive" or "not_connected";
            candidates.Add(Candidate("agent", key, status, connected ? "used" : isDisconnected ? "inactive" : "no_credential"));
        }

        var used = connected ? "outranked" : "used";
        candidates.Add(link switch
        {
            Link.NotLinked => """{"type":"org_linked","reason":"not_linked"}""",
            Link.Missing or Link.Foreign => $$"""{"type":"org_linked","calcom_account_id":"{{linked}}","reason":"unavailable"}""",
            Link.Connected => Candidate("org_linked", linked, "active", used),
            Link.InTrouble => Candidate("org_linked", linked, "Error", used),
            Link.WithoutStatus => Candidate("org_linked", linked, null, used),
            Link.Inactive => Candidate("org_linked", linked, " INACTIVE", "inactive"),
            Link.NotConnected => Candidate("org_linked", linked, "not_connected", "inactive"),
            Link.WithoutKey => Candidate("org_linked", linked, "active", "no_credential"),
            _ => throw new ArgumentOutOfRangeException(nameof(link)),
        });
        return $"[{string.Join(',', candidates)}]";
    }

    private static string Candidate(string type, Guid? id, string? status, string reason) =>
        $$"""{"type":"{{type}}","calcom_account_id":"{{id}}","status":{{JsonSerializer.Serialize(string.IsNullOrWhiteSpace(status) ? "unknown" : status)}},"reason":"{{reason}}"}""";

    private static string Account(string type, Guid id, string status = "active") =>
        $$$"""{"success":true,"message":"Agent Cal.com account retrieved","data":{"connected":true,"type":"{{{type}}}","calcom_account_id":"{{{id}}}","account_name":"Calendar","status":{{{JsonSerializer.Serialize(status)}}},"api_base_url":"https://cal.example/api"}}""";
}
