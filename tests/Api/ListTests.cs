using System.Text.Json;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/api.md: an organization's agents, page by page.</summary>
public sealed class ListTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private readonly Guid _org = Guid.NewGuid();

    private string Token => Tokens.OfOrganization(_org);

    [Fact]
    public async Task Page_HasTheDocumentedBody()
    {
        var account = await fixture.Tables.AddOrgAccountAsync(_org, new());
        Guid[] agents = [.. new[] { await fixture.Tables.AddAgentAsync(_org, account), await fixture.Tables.AddAgentAsync(_org) }.Order()];
        await fixture.Tables.AddAgentAsync(_org, deleted: true);
        await fixture.Tables.AddAgentAsync(Guid.NewGuid());
        await fixture.Tables.ExecuteAsync("update calcom.agents set name = 'Reception' where id = @id", new { id = agents[0] });
        var single = await Task.WhenAll(agents.Select(async agent => (await fixture.Service.GetAccountAsync(agent, Token)).Json.GetProperty("data").GetRawText()));

        var answer = await fixture.Service.ListAccountsAsync(Token);

        Assert.Equal(
            (200, $$$"""{"success":true,"message":"Agent Cal.com accounts retrieved","data":{"accounts":[{"agent_id":"{{{agents[0]}}}","agent_name":"Reception","account":{{{single[0]}}}},{"agent_id":"{{{agents[1]}}}","agent_name":"agent","account":{{{single[1]}}}}]}}"""),
            (answer.Status, answer.Body));
        Assert.Equal("no-store", answer.Header("Cache-Control"));

        var first = await fixture.Service.ListAccountsAsync(Token, "?limit=1");
        Assert.EndsWith($$$""","account":{{{single[0]}}}}],"next":"{{{agents[0]}}}"}}""", first.Body, StringComparison.Ordinal);
        var last = await fixture.Service.ListAccountsAsync(Token, $"?limit=1&after={agents[0]}");
        Assert.EndsWith($$$""","account":{{{single[1]}}}}]}}""", last.Body, StringComparison.Ordinal);
        Assert.Equal((200, ""), ((await fixture.Service.SendAsync("HEAD", TestService.AccountsPath, Token)).Status, (await fixture.Service.SendAsync("HEAD", TestService.AccountsPath, Token)).Body));
    }

    // The oracle is the operation for a single agent.
    [Fact]
    public async Task EveryKeyStateAndLink_IsListedAsTheOperationAnswers()
    {
        var subject = $"member of {_org}";
        await fixture.Views.AddMemberAsync(_org, subject);
        var links = new List<Guid?> { null, Guid.NewGuid(), await fixture.Views.AddOrgAccountAsync(Guid.NewGuid(), new()) };
        foreach (var (hasApiKey, status, _, _) in AccountStates.All)
        {
            links.Add(await fixture.Views.AddOrgAccountAsync(_org, new() { Status = status, ApiKey = hasApiKey ? "cal_secret" : null }));
        }

        foreach (var link in links)
        {
            await fixture.Views.AddAgentAsync(_org, link);
            foreach (var (hasApiKey, status, _, _) in AccountStates.All)
            {
                var agent = await fixture.Views.AddAgentAsync(_org, link);
                await fixture.Views.AddKeyAsync(agent, new() { Status = status, ApiKey = hasApiKey ? "cal_secret" : null });

                // Older, so that it counts only where the first does not; and of the same time, so that the greater id counts.
                var other = new StoredAccount();
                await fixture.Views.AddKeyAsync(agent, link is null ? other with { CreatedAt = DateTime.UnixEpoch } : other with { Status = "inactive", CreatedAt = DateTime.UnixEpoch });
                if (link == links[1])
                {
                    await fixture.Views.AddKeyAsync(agent, new());
                }
            }
        }

        var all = await WalkAsync(fixture.ServiceOnViews, Token, "");
        Assert.Equal(links.Count * (AccountStates.All.Length + 1), all.Count);
        Assert.Equal(all.Select(agent => agent.Id).Order(), all.Select(agent => agent.Id));
        foreach (var agent in all)
        {
            Assert.Equal((await fixture.ServiceOnViews.GetAccountAsync(agent.Id, Token)).Json.GetProperty("data").GetRawText(), agent.Account.GetRawText());
        }

        var expected = all.ConvertAll(agent => (agent.Id, agent.Account.GetRawText()));
        foreach (var service in new[] { fixture.ServiceOnViews, fixture.DistributedServiceOnViews })
        {
            foreach (var (token, query) in new[] { (Token, ""), (Tokens.OfSubject(subject), $"&org_id={_org}") })
            {
                Assert.Equal(expected, (await WalkAsync(service, token, $"{query}&limit=7")).ConvertAll(agent => (agent.Id, agent.Account.GetRawText())));
            }
        }

        // Every filter, and all that combine, against the whole.
        var accountId = all.Select(agent => Text(agent.Account, "calcom_account_id")).First(id => id is not null)!;
        foreach (var connected in new[] { null, "true", "false" })
        {
            foreach (var type in new[] { null, "agent", "org_linked", "none" })
            {
                foreach (var status in new[] { null, "ACTIVE", " unknown", "inactive", "never heard of" })
                {
                    foreach (var id in new[] { null, accountId.ToUpperInvariant(), $"{Guid.NewGuid()}" })
                    {
                        var matching = all.Where(agent =>
                            (connected is null || agent.Account.GetProperty("connected").GetBoolean() == connected is "true")
                            && (type is null || Text(agent.Account, "type") == type)
                            && (status is null || string.Equals(Text(agent.Account, "status")?.Trim(), status.Trim(), StringComparison.OrdinalIgnoreCase))
                            && (id is null || string.Equals(Text(agent.Account, "calcom_account_id"), id, StringComparison.OrdinalIgnoreCase)));
                        var query = string.Concat(new[] { ("connected", connected), ("type", type), ("status", status), ("calcom_account_id", id) }
                            .Where(filter => filter.Item2 is not null).Select(filter => $"&{filter.Item1}={Uri.EscapeDataString(filter.Item2!)}"));
                        Assert.Equal(matching.Select(agent => agent.Id), (await WalkAsync(fixture.ServiceOnViews, Token, query)).Select(agent => agent.Id));
                    }
                }
            }
        }
    }

    // What the constraints of our own tables allow.
    [Fact]
    public async Task OwnTables_EveryKeyStateAndLink_IsListedAsTheOperationAnswers()
    {
        await fixture.Tables.AddMemberAsync(_org, $"member of {_org}");
        var links = new List<Guid?> { null };
        foreach (var (hasApiKey, status, _, _) in AccountStates.All)
        {
            links.Add(await fixture.Tables.AddOrgAccountAsync(_org, new() { Status = status, ApiKey = hasApiKey ? "cal_secret" : null }));
        }

        foreach (var link in links)
        {
            foreach (var (hasApiKey, status, _, _) in AccountStates.All)
            {
                var agent = await fixture.Tables.AddAgentAsync(_org, link);
                await fixture.Tables.AddKeyAsync(agent, new() { Status = status, ApiKey = hasApiKey ? "cal_secret" : null });
                await fixture.Tables.AddKeyAsync(agent, new() { Status = "inactive", CreatedAt = DateTime.UnixEpoch });
            }
        }

        foreach (var service in new[] { fixture.Service, fixture.DistributedService })
        {
            foreach (var (token, query) in new[] { (Token, ""), (Tokens.OfSubject($"member of {_org}"), $"&org_id={_org}") })
            {
                var all = await WalkAsync(service, token, query);
                Assert.Equal(links.Count * AccountStates.All.Length, all.Count);
                foreach (var agent in all)
                {
                    Assert.Equal((await service.GetAccountAsync(agent.Id, token)).Json.GetProperty("data").GetRawText(), agent.Account.GetRawText());
                }
            }
        }
    }

    [Fact]
    public async Task FilterThatRejectsThousandsOfAgents_LooksAtAThousandARequest()
    {
        await fixture.Tables.ExecuteAsync("insert into calcom.agents (org_id) select @_org from generate_series(1, 3000)", new { _org });

        var pages = new List<JsonElement>();
        var after = "";
        do
        {
            pages.Add((await fixture.Service.ListAccountsAsync(Token, $"?connected=true{after}")).Json.GetProperty("data"));
            after = $"&after={Text(pages[^1], "next")}";
        }
        while (pages[^1].TryGetProperty("next", out _));

        Assert.Equal(3, pages.Count);
        Assert.All(pages, page => Assert.Equal(0, page.GetProperty("accounts").GetArrayLength()));
    }

    [Fact]
    public async Task FullLastPage_HasNoNext()
    {
        await fixture.Tables.ExecuteAsync("insert into calcom.agents (org_id) select @_org from generate_series(1, 1000)", new { _org });

        Assert.Equal(10, await CountPagesAsync("?limit=100"));
        Assert.Equal(20, await CountPagesAsync("?"));
        Assert.Equal(10, await CountPagesAsync("?limit=100&type=none"));
        Assert.Equal(1, await CountPagesAsync("?limit=100&type=agent"));

        async Task<int> CountPagesAsync(string query)
        {
            var pages = 0;
            for (var after = ""; after is not null; pages++)
            {
                var data = (await fixture.Service.ListAccountsAsync(Token, $"{query}{after}")).Json.GetProperty("data");
                after = Text(data, "next") is { } next ? $"&after={next}" : null;
            }

            return pages;
        }
    }

    [Fact]
    public async Task Walk_WhileAgentsComeAndGo_SeesEachThatStaysOnce()
    {
        await fixture.Tables.ExecuteAsync("insert into calcom.agents (org_id, name) select @_org, case n % 3 when 0 then 'goes' else 'stays' end from generate_series(1, 10000) n", new { _org });
        var account = await fixture.Tables.AddOrgAccountAsync(_org, new());
        var stays = (await fixture.Tables.QueryAsync<Guid>("select id from calcom.agents where org_id = @_org and name = 'stays'", new { _org })).ToHashSet();
        using var ended = new CancellationTokenSource();
        var changes = 0;
        var changing = Task.Run(async () =>
        {
            while (!ended.IsCancellationRequested)
            {
                await fixture.Tables.ExecuteAsync(
                    """
                    insert into calcom.agents (org_id, name) select @_org, 'comes' from generate_series(1, 20);
                    update calcom.agents set deleted_at = now() where id in (select id from calcom.agents where org_id = @_org and name = 'goes' and deleted_at is null order by random() limit 20);
                    delete from calcom.agents where id in (select id from calcom.agents where org_id = @_org and name = 'goes' order by random() limit 20);
                    update calcom.agents set org_account_id = case when org_account_id is null then @account end
                        where id in (select id from calcom.agents where org_id = @_org and name = 'stays' order by random() limit 20)
                    """,
                    new { _org, account });
                changes++;
            }
        });

        List<Guid> seen;
        try
        {
            await Eventually.HoldsAsync(() => Task.FromResult(changes > 0), TimeSpan.FromSeconds(10));
            seen = (await WalkAsync(fixture.Service, Token, "&limit=100")).ConvertAll(agent => agent.Id);
        }
        finally
        {
            await ended.CancelAsync();
            await changing;
        }

        Assert.True(changes > 1);

        Assert.Equal(seen.Order(), seen);
        Assert.Equal(seen.Count, seen.Distinct().Count());
        Assert.Equal(stays.Count, seen.Count(stays.Contains));
    }

    [Theory]
    [InlineData("limit=0", "limit")]
    [InlineData("limit=101", "limit")]
    [InlineData("limit=-1", "limit")]
    [InlineData("limit=%2B5", "limit")]
    [InlineData("limit=1.5", "limit")]
    [InlineData("limit=05", "limit")]
    [InlineData("limit=5%00", "limit")]
    [InlineData("limit=99999999999", "limit")]
    [InlineData("limit=", "limit")]
    [InlineData("limit=5&limit=5", "limit")]
    [InlineData("limit=5&LIMIT=5", "limit")]
    [InlineData("after=", "after")]
    [InlineData("after=garbage", "after")]
    [InlineData("after={00000000-0000-0000-0000-000000000000}", "after")]
    [InlineData("connected=True", "connected")]
    [InlineData("connected=1", "connected")]
    [InlineData("connected", "connected")]
    [InlineData("type=Agent", "type")]
    [InlineData("type=agent,none", "type")]
    [InlineData("status=", "status")]
    [InlineData("status=%20", "status")]
    [InlineData("status=a&status=b", "status")]
    [InlineData("calcom_account_id=1", "calcom_account_id")]
    [InlineData("agent_id=00000000-0000-0000-0000-000000000000", "agent_id")]
    [InlineData("offset=1", "offset")]
    [InlineData("=1", "one of the names")]
    [InlineData("%22%3E=1", "one of the names")]
    public async Task InvalidParameter_Returns400ThatNamesIt(string query, string name)
    {
        var answer = await fixture.Service.ListAccountsAsync(Token, $"?{query}");

        Assert.Equal((400, "INVALID_REQUEST"), (answer.Status, answer.Json.GetProperty("code").GetString()));
        Assert.StartsWith($"{name} ", answer.Json.GetProperty("message").GetString(), StringComparison.Ordinal);
        Assert.Equal(401, (await fixture.Service.ListAccountsAsync(token: null, $"?{query}")).Status);
    }

    [Fact]
    public async Task Organization_IsTheTokensElseTheQuerys()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        await fixture.Tables.AddMemberAsync(_org, $"member of {_org}");
        var member = Tokens.OfSubject($"member of {_org}");
        const string None = """{"success":true,"message":"Agent Cal.com accounts retrieved","data":{"accounts":[]}}""";

        foreach (var service in new[] { fixture.Service, fixture.DistributedService })
        {
            foreach (var (token, query) in new[] { (Token, ""), (Token, $"?org_id={Guid.NewGuid()}"), (Token, "?org_id=garbage"), (Token, "?org_id=a&org_id=b"), (member, $"?org_id={_org}") })
            {
                Assert.Contains($"{agent}", (await service.ListAccountsAsync(token, query)).Body, StringComparison.Ordinal);
            }

            foreach (var (token, query) in new[] { (Tokens.OfOrganization(Guid.NewGuid()), $"?org_id={_org}"), (Tokens.OfSubject("stranger"), $"?org_id={_org}"), (member, $"?org_id={Guid.NewGuid()}"), (Tokens.OfSubject("a\0b"), $"?org_id={_org}") })
            {
                Assert.Equal((200, None), ((await service.ListAccountsAsync(token, query)).Status, (await service.ListAccountsAsync(token, query)).Body));
            }

            foreach (var query in new[] { "", "?org_id=", "?org_id=garbage", $"?org_id={_org}&org_id={_org}" })
            {
                var refused = await service.ListAccountsAsync(member, query);
                Assert.Equal(400, refused.Status);
                Assert.StartsWith("org_id ", refused.Json.GetProperty("message").GetString(), StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public async Task Page_IsOneStatement()
    {
        using var statements = new StatementCounter(fixture.Tables, "agent_name");

        await fixture.Service.ListAccountsAsync(Token);
        await fixture.DistributedService.ListAccountsAsync(Tokens.OfSubject("somebody"), $"?org_id={_org}&connected=true");

        Assert.Equal(2, statements.Count);
    }

    /// <summary>All pages of a list, one after the other.</summary>
    private static async Task<List<(Guid Id, JsonElement Account)>> WalkAsync(TestService service, string token, string query)
    {
        var agents = new List<(Guid Id, JsonElement Account)>();
        for (var after = ""; after is not null;)
        {
            var answer = await service.ListAccountsAsync(token, $"?{$"{query}{after}".TrimStart('&')}");
            Assert.True(answer.Status is 200, answer.Body);
            var data = answer.Json.GetProperty("data");
            agents.AddRange(data.GetProperty("accounts").EnumerateArray().Select(agent => (agent.GetProperty("agent_id").GetGuid(), agent.GetProperty("account"))));
            after = Text(data, "next") is { } next ? $"&after={next}" : null;
        }

        return agents;
    }

    private static string? Text(JsonElement data, string key) => data.TryGetProperty(key, out var value) ? value.GetString() : null;
}
