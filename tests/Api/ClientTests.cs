using System.Text.RegularExpressions;
using CalcomAccounts.Client;

namespace CalcomAccounts.Tests.Api;

/// <summary>The client that consumers generate, here generated from the committed OpenAPI document by the build.</summary>
public sealed class ClientTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private readonly Guid _org = Guid.NewGuid();

    [Fact]
    public async Task GeneratedClient_ReadsEveryOutcome()
    {
        var stored = new StoredAccount { Status = "error" };
        var account = await fixture.Tables.AddOrgAccountAsync(_org, stored with { Id = Guid.NewGuid() });
        var agents = new[] { await fixture.Tables.AddAgentAsync(_org), await fixture.Tables.AddAgentAsync(_org, account), await fixture.Tables.AddAgentAsync(_org) };
        var key = await fixture.Tables.AddKeyAsync(agents[0], stored);
        using var http = Http(fixture.Service);
        var client = new CalcomAccountsClient(http);

        foreach (var (agent, type, id) in new[] { (agents[0], "agent", key), (agents[1], "org_linked", account) })
        {
            var found = (await client.GetAgentCalcomAccountAsync(agent.ToString())).Data!;
            Assert.Equal(
                (true, type, id.ToString(), stored.Name, stored.Status, stored.ApiBaseUrl),
                (found.Connected, found.Type, found.Calcom_account_id, found.Account_name, found.Status, found.Api_base_url));
        }

        var none = await client.GetAgentCalcomAccountAsync(agents[2].ToString());
        Assert.Equal((true, "Agent Cal.com account retrieved"), (none.Success, none.Message));
        Assert.Equal((false, "none", null, null), (none.Data!.Connected, none.Data.Type, none.Data.Calcom_account_id, none.Data.Status));
    }

    [Fact]
    public async Task GeneratedClient_ReadsExplanation()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var key = await fixture.Tables.AddKeyAsync(agent, new() { ApiKey = null });
        using var http = Http(fixture.Service);

        var explanation = (await new CalcomAccountsClient(http).ExplainAgentCalcomAccountAsync(agent.ToString())).Data!;

        Assert.Equal("none", explanation.Effective!.Type);
        Assert.Equal(
            [("agent", key.ToString(), "active", "no_credential"), ("org_linked", null, null, "not_linked")],
            explanation.Candidates!.Select(candidate => (candidate.Type, candidate.Calcom_account_id, candidate.Status, candidate.Reason)));
    }

    [Fact]
    public async Task GeneratedClient_ReadsAccountList()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var nobody = Guid.NewGuid();
        using var http = Http(fixture.Service);

        var many = await new CalcomAccountsClient(http).GetAgentCalcomAccountsAsync(new GetAgentCalcomAccountsRequest { Agent_ids = [$"{agent}", $"{nobody}"] });

        Assert.Equal([(agent.ToString(), "none"), (nobody.ToString(), null)], many.Data!.Accounts!.Select(one => (one.Agent_id, one.Account?.Type)));
    }

    [Fact]
    public async Task GeneratedClient_OrgIdParameter_SelectsTheOrganization()
    {
        var subject = Guid.NewGuid().ToString();
        var otherOrg = Guid.NewGuid();
        var (here, elsewhere) = (await fixture.Tables.AddAgentAsync(_org), await fixture.Tables.AddAgentAsync(otherOrg));
        await fixture.Tables.AddMemberAsync(_org, subject);
        await fixture.Tables.AddMemberAsync(otherOrg, subject);
        using var http = Http(fixture.Service, Tokens.OfSubject(subject));
        var client = new CalcomAccountsClient(http);

        foreach (var (org, found, notFound) in new[] { (_org, here, elsewhere), (otherOrg, elsewhere, here) })
        {
            var many = await client.GetAgentCalcomAccountsAsync(new() { Agent_ids = [$"{found}", $"{notFound}"], Org_id = $"{org}" });
            Assert.Equal([true, false], many.Data!.Accounts!.Select(one => one.Account is not null));

            Assert.True((await client.GetAgentCalcomAccountAsync($"{found}", $"{org}")).Success);
            Assert.Equal(404, (await Assert.ThrowsAsync<ApiException<ErrorResponse>>(() => client.GetAgentCalcomAccountAsync($"{notFound}", $"{org}"))).StatusCode);
        }
    }

    [Fact]
    public async Task GeneratedClient_ErrorResponses_ThrowTypedExceptions()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        await using var withoutDatabase = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody");
        var valid = Tokens.OfOrganization(_org);

        foreach (var (service, token, id, status, code) in new[]
        {
            (fixture.Service, valid, "garbage", 400, "INVALID_REQUEST"),
            (fixture.Service, valid, Guid.NewGuid().ToString(), 404, "NOT_FOUND"),
            (withoutDatabase, valid, agent.ToString(), 500, "INTERNAL_ERROR"),
        })
        {
            using var http = Http(service, token);
            var client = new CalcomAccountsClient(http);
            foreach (var ask in new Func<Task>[] { () => client.GetAgentCalcomAccountAsync(id), () => client.ExplainAgentCalcomAccountAsync(id) })
            {
                var error = await Assert.ThrowsAsync<ApiException<ErrorResponse>>(ask);
                Assert.Equal((status, false, code), (error.StatusCode, error.Result.Success, error.Result.Code));
            }

            if (status is not 404)
            {
                var error = await Assert.ThrowsAsync<ApiException<ErrorResponse>>(() => client.GetAgentCalcomAccountsAsync(new() { Agent_ids = [id] }));
                Assert.Equal((status, code), (error.StatusCode, error.Result.Code));
            }
        }

        using var unauthorizedHttp = Http(fixture.Service, "x");
        var unauthorizedClient = new CalcomAccountsClient(unauthorizedHttp);
        foreach (var ask in new Func<Task>[]
        {
            () => unauthorizedClient.GetAgentCalcomAccountAsync(agent.ToString()), () => unauthorizedClient.ExplainAgentCalcomAccountAsync(agent.ToString()),
            () => unauthorizedClient.GetAgentCalcomAccountsAsync(new() { Agent_ids = [agent.ToString()] }),
        })
        {
            var refused = await Assert.ThrowsAsync<ApiException<UnauthorizedResponse>>(ask);
            Assert.Equal((401, false), (refused.StatusCode, refused.Result.Success));
            Assert.Contains("Bearer", refused.Result.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task GeneratedClient_WalksAnOrganizationsAgents()
    {
        await fixture.Tables.ExecuteAsync("insert into calcom.agents (org_id, name) select @_org, 'Agent ' || n from generate_series(1, 120) n", new { _org });
        using var http = Http(fixture.Service);
        var client = new CalcomAccountsClient(http);
        var names = new List<string?>();

        await foreach (var agent in ListAsync(connected: false))
        {
            names.Add(agent.Agent_name);
        }

        Assert.Equal(Enumerable.Range(1, 120).Select(n => $"Agent {n}").Order(), names.Order());
        var source = await File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "tests", "Api", "ClientTests.cs"));
        Assert.Contains(
            Docs.Block("docs/clients.md", "csharp", "IAsyncEnumerable"), string.Join('\n', source.Split('\n').Select(line => line.StartsWith("        ", StringComparison.Ordinal) ? line[8..] : line)), StringComparison.Ordinal);

        async IAsyncEnumerable<ListedAgentCalcomAccountData> ListAsync(bool? connected = null)
        {
            string? after = null;
            do
            {
                var page = (await client.ListAgentCalcomAccountsAsync(connected: connected, after: after)).Data!;
                foreach (var agent in page.Accounts!)
                {
                    yield return agent;
                }

                after = page.Next;
            }
            while (after is not null);
        }
    }

    [Fact]
    public async Task DocumentedClientCommandAndExample_MatchTheTestedClient()
    {
        var project = await File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "tests", "CalcomAccounts.Tests.csproj"));
        var options = Regex.Match(project, "openapi2csclient .*(/className:.+?)\"").Groups[1].Value;
        Assert.EndsWith($" /output:CalcomAccountsClient.cs {options}\n", Docs.Block("docs/clients.md", "sh", "openapi2csclient"), StringComparison.Ordinal);

        var used = Regex.Match(Docs.Block("docs/clients.md", "csharp", "new CalcomAccountsClient(http)"), "client\\.(\\w+)\\(\"([^\"]+)\"\\)\\)\\.Data!;");
        using var http = Http(fixture.Service);
        Assert.Equal(nameof(CalcomAccountsClient.GetAgentCalcomAccountAsync), used.Groups[1].Value);
        var error = await Assert.ThrowsAsync<ApiException<ErrorResponse>>(() => new CalcomAccountsClient(http).GetAgentCalcomAccountAsync(used.Groups[2].Value));
        Assert.Equal("NOT_FOUND", error.Result.Code);
    }

    private HttpClient Http(TestService service, string? token = null) => new(new SocketsHttpHandler { UseProxy = false })
    {
        BaseAddress = new(service.Url),
        DefaultRequestHeaders = { Authorization = new("Bearer", token ?? Tokens.OfOrganization(_org)) },
    };
}
