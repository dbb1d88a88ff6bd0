using System.Text.Json;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Diagnostics;
using Dapper;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>
/// docs/scaling.md: tables that are distributed by organization. Here they are partitions, so that a statement which reads more than one
/// organization's is noticed.
/// </summary>
public sealed class DistributionTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>, IAsyncLifetime
{
    private const int Partitions = 4;
    private const string Member = "member";

    private static readonly string[] s_tables = ["agents", "agent_keys", "org_accounts", "org_members"];

    private TestDatabase _database = null!;
    private TestService _service = null!;

    public async ValueTask InitializeAsync()
    {
        _database = await TestDatabase.OfPartitionsAsync(fixture.Server);
        _service = await TestService.StartAsync(_database.ServiceConnectionString, new() { ["CalcomAccounts:Distributed"] = "true" });
    }

    public ValueTask DisposeAsync() => _service.DisposeAsync();

    // A lock on the other partitions makes a statement wait that would read them.
    [Fact]
    public async Task EveryOperation_ForACallerWithOrganization_ReadsOnePartitionOfEachTable()
    {
        var org = await AddOrganizationAsync();
        var partition = await PartitionAsync(org.Id);
        await using var connection = new NpgsqlConnection(_database.OwnerConnectionString + ";Pooling=false");
        await connection.OpenAsync();
        var others = from table in s_tables from i in Enumerable.Range(0, Partitions) where $"{i}" != partition select $"calcom.{table}_{i}";
        await connection.ExecuteAsync($"begin; lock table {string.Join(", ", others)}");

        foreach (var (token, query) in new[] { (Tokens.OfOrganization(org.Id), ""), (Tokens.OfSubject(Member), $"?org_id={org.Id}") })
        {
            Assert.Contains("\"type\":\"agent\"", (await _service.GetAccountAsync(org.Agents[0], token, query)).Body, StringComparison.Ordinal);
            Assert.Contains("\"type\":\"org_linked\"", (await _service.GetAccountAsync(org.Agents[1], token, query)).Body, StringComparison.Ordinal);
            Assert.Equal(404, (await _service.GetAccountAsync(Guid.NewGuid(), token, query)).Status);
            Assert.Equal(200, (await _service.ExplainAccountAsync(org.Agents[0], token, query)).Status);
            Assert.Equal(200, (await _service.GetAccountsAsync([.. Enumerable.Range(0, 97).Select(_ => Guid.NewGuid()), .. org.Agents], token, query)).Status);
        }
    }

    [Fact]
    public async Task Readiness_ReadsNoPartition()
    {
        await using var connection = new NpgsqlConnection(_database.OwnerConnectionString + ";Pooling=false");
        await connection.OpenAsync();
        await connection.ExecuteAsync($"begin; lock table {string.Join(", ", from table in s_tables from i in Enumerable.Range(0, Partitions) select $"calcom.{table}_{i}")}");

        Assert.Equal(200, (await _service.SendAsync("GET", "/health/ready")).Status);
    }

    [Fact]
    public async Task Readiness_TableMissing_IsUnhealthy()
    {
        await _database.ExecuteAsync("alter table calcom.agent_keys rename to away");

        Assert.Equal(503, (await _service.SendAsync("GET", "/health/ready")).Status);
    }

    [Fact]
    public async Task List_OfAMemberOfSeveralOrganizations_HasTheAgentsOfEachInOrder()
    {
        var (one, other, foreign) = (await AddOrganizationAsync(), await AddOrganizationAsync(), await AddOrganizationAsync(member: "somebody else"));
        Guid[] asked = [other.Agents[0], one.Agents[1], foreign.Agents[0], one.Agents[2], Guid.NewGuid(), other.Agents[0]];

        var answer = await _service.GetAccountsAsync(asked, Tokens.OfSubject(Member));

        var accounts = answer.Json.GetProperty("data").GetProperty("accounts").EnumerateArray().ToList();
        Assert.Equal(asked, accounts.Select(found => found.GetProperty("agent_id").GetGuid()));
        Assert.Equal(
            ["agent", "org_linked", null, "none", null, "agent"],
            accounts.Select(found => found.GetProperty("account")).Select(account => account.ValueKind is JsonValueKind.Null ? null : account.GetProperty("type").GetString()));
    }

    [Fact]
    public async Task Request_ExecutesAsManyStatementsAsDocumented()
    {
        var (org, other) = (await AddOrganizationAsync(), await AddOrganizationAsync("member of other"));
        await _database.AddMemberAsync(org.Id, "member of both");
        await _database.AddMemberAsync(other.Id, "member of both");
        for (var i = 0; i < 20; i++)
        {
            await _database.AddMemberAsync(i is 0 ? org.Id : Guid.NewGuid(), "member of many");
        }

        Assert.Equal(1, await CountStatementsAsync(() => _service.GetAccountAsync(org.Agents[0], Tokens.OfOrganization(org.Id)), 200));
        Assert.Equal(1, await CountStatementsAsync(() => _service.GetAccountAsync(org.Agents[0], Tokens.OfSubject(Member), $"?org_id={org.Id}"), 200));
        Assert.Equal(2, await CountStatementsAsync(() => _service.GetAccountAsync(org.Agents[0], Tokens.OfSubject(Member)), 200));
        Assert.Equal(1, await CountStatementsAsync(() => _service.GetAccountAsync(org.Agents[0], Tokens.OfSubject("stranger")), 404));
        Assert.Equal(1, await CountStatementsAsync(() => _service.GetAccountsAsync(org.Agents, Tokens.OfOrganization(org.Id)), 200));
        Assert.Equal(2, await CountStatementsAsync(() => _service.GetAccountsAsync(org.Agents, Tokens.OfSubject(Member)), 200));
        Assert.Equal(3, await CountStatementsAsync(() => _service.GetAccountsAsync([.. org.Agents, .. other.Agents], Tokens.OfSubject("member of both")), 200));
        Assert.Equal(3, await CountStatementsAsync(() => _service.GetAccountAsync(org.Agents[0], Tokens.OfSubject("member of many")), 200));
        Assert.Equal(2, await CountStatementsAsync(() => _service.GetAccountAsync(Guid.NewGuid(), Tokens.OfSubject("member of many")), 404));
    }

    [Theory]
    [InlineData(8)]
    [InlineData(9)]
    [InlineData(20)]
    public async Task MemberOfManyOrganizations_SeesAgentsOfEach(int organizations)
    {
        var agents = new List<Guid>();
        for (var i = 0; i < organizations; i++)
        {
            agents.Add((await AddOrganizationAsync("member of many")).Agents[0]);
        }

        foreach (var agent in agents)
        {
            Assert.Equal(200, (await _service.GetAccountAsync(agent, Tokens.OfSubject("member of many"))).Status);
        }

        Assert.Equal(404, (await _service.GetAccountAsync((await AddOrganizationAsync("somebody else")).Agents[0], Tokens.OfSubject("member of many"))).Status);
    }

    // A locked partition stands for a server that hangs.
    [Fact]
    public async Task ServerOfOneOfTheCallersOrganizationsHangs_AgentsOfOthersAreAnswered()
    {
        var (org, other) = (await AddOrganizationAsync(), await AddOrganizationAsync());
        while (await PartitionAsync(other.Id) == await PartitionAsync(org.Id))
        {
            other = await AddOrganizationAsync();
        }

        await using (await _database.LockAsync($"agents_{await PartitionAsync(other.Id)}"))
        {
            Assert.Equal(200, (await _service.GetAccountAsync(org.Agents[0], Tokens.OfSubject(Member))).Status);
            Assert.Equal(500, (await _service.GetAccountAsync(other.Agents[0], Tokens.OfSubject(Member))).Status);
            Assert.Equal(500, (await _service.GetAccountAsync(Guid.NewGuid(), Tokens.OfSubject(Member))).Status);
        }
    }

    // A partition is locked while a statement is planned. Npgsql then takes the statement for prepared without knowing its columns.
    [Fact]
    public async Task SessionWhoseFirstStatementWasCancelledWhilePlanned_NextRequestSucceeds()
    {
        var org = await AddOrganizationAsync();
        await using var service = await TestService.StartAsync(
            $"{_database.ServiceConnectionString};Maximum Pool Size=1;Cancellation Timeout=1000", new() { ["CalcomAccounts:Distributed"] = "true" });
        var reader = service.Services.GetRequiredService<IAgentReader>();
        await using (await _database.LockAsync($"agents_{await PartitionAsync(org.Id)}"))
        {
            using var cancellation = new CancellationTokenSource(TimeSpan.FromMilliseconds(50));
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => reader.FindAsync([org.Agents[0]], Caller.OfOrganization(org.Id), cancellation.Token));
            await Eventually.HoldsAsync(async () => (await _database.QueryAsync<long>("select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"))[0] is 0, TimeSpan.FromSeconds(2));
        }

        Assert.NotNull(Assert.Single(await reader.FindAsync([org.Agents[0]], Caller.OfOrganization(org.Id), CancellationToken.None)));
    }

    // Only a table whose ids are made by somebody else can have one twice.
    [Fact]
    public async Task AgentIdOfTwoOrganizations_IsEachCallersOwn()
    {
        Guid[] orgs = [.. new[] { Guid.NewGuid(), Guid.NewGuid() }.Order()];
        var agent = Guid.NewGuid();
        foreach (var org in orgs)
        {
            await _database.ExecuteAsync(
                """
                insert into calcom.agents (org_id, id) values (@org, @agent);
                insert into calcom.agent_keys (org_id, agent_id, account_name, api_key) values (@org, @agent, @org::text, 'key');
                insert into calcom.org_members values (@org, 'of both'), (@org, @org::text);
                """,
                new { org, agent });
        }

        await using var notDistributed = await TestService.StartAsync(_database.ServiceConnectionString);
        foreach (var service in new[] { _service, notDistributed })
        {
            foreach (var org in orgs)
            {
                Assert.Equal($"{org}", await NameAsync(service, agent, Tokens.OfOrganization(org)));
                Assert.Equal($"{org}", await NameAsync(service, agent, Tokens.OfSubject($"{org}")));
                Assert.Equal($"{org}", await NameAsync(service, agent, Tokens.OfSubject("of both"), $"?org_id={org}"));
            }

            Assert.Equal($"{orgs[0]}", await NameAsync(service, agent, Tokens.OfSubject("of both")));
        }
    }

    // Views and partitions have no foreign key that forbids such a key.
    [Fact]
    public async Task KeyOfAnotherOrganizationThanItsAgents_IsNotRead()
    {
        var org = await AddOrganizationAsync();
        await _database.ExecuteAsync(
            "insert into calcom.agent_keys (org_id, agent_id, api_key) values (gen_random_uuid(), @agent, 'key')", new { agent = org.Agents[2] });
        await using var notDistributed = await TestService.StartAsync(_database.ServiceConnectionString);

        foreach (var service in new[] { _service, notDistributed })
        {
            Assert.Contains("\"type\":\"none\"", (await service.GetAccountAsync(org.Agents[2], Tokens.OfOrganization(org.Id))).Body, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(false, "the tables are on one server")]
    [InlineData(true, "the tables are on one server; CalcomAccounts:Distributed is set, which costs processor time")]
    public async Task Check_OfPartitions_Passes(bool isDistributed, string expected)
    {
        await AddOrganizationAsync();

        var report = await DatabaseCheck.RunAsync(_database.ServiceConnectionString, isDistributed, CancellationToken.None);

        Assert.All(report.Checks, check => Assert.True(check.Ok, check.ToString()));
        Assert.Equal(expected, Assert.Single(report.Checks, check => check.Name is "distribution").Detail);
    }

    [Fact]
    public async Task Check_IndexesMissing_NamesThePartition()
    {
        await _database.ExecuteAsync("""
            do $$
            declare index regclass;
            begin
                execute format('alter table calcom.agent_keys drop constraint %s', (select conname from pg_constraint where conrelid = 'calcom.agent_keys'::regclass and contype = 'p'));
                for index in select indexrelid from pg_index where indrelid = 'calcom.agent_keys'::regclass loop
                    execute format('drop index %s', index);
                end loop;
            end $$
            """);

        var report = await DatabaseCheck.RunAsync(_database.ServiceConnectionString, isDistributed: true, CancellationToken.None);

        Assert.Matches("scans all rows of agent_keys_[0-3]$", Assert.Single(report.Checks, check => !check.Ok).Detail);
    }

    /// <summary>The number of the partitions that an organization's rows are in.</summary>
    private async Task<string> PartitionAsync(Guid orgId) =>
        (await _database.QueryAsync<string>("select right(tableoid::regclass::text, 1) from calcom.org_members where org_id = @orgId", new { orgId }))[0];

    private async Task<int> CountStatementsAsync(Func<Task<Answer>> request, int expectedStatus)
    {
        using var statements = new StatementCounter(_database);
        Assert.Equal(expectedStatus, (await request()).Status);
        return statements.Count;
    }

    private static async Task<string?> NameAsync(TestService service, Guid agent, string token, string query = "") =>
        (await service.GetAccountAsync(agent, token, query)).Json.GetProperty("data").GetProperty("account_name").GetString();

    /// <summary>An organization with a member, and an agent for each outcome.</summary>
    private async Task<(Guid Id, Guid[] Agents)> AddOrganizationAsync(string member = Member)
    {
        var org = Guid.NewGuid();
        await _database.AddMemberAsync(org, member);
        Guid[] agents = [await _database.AddAgentAsync(org), await _database.AddAgentAsync(org, await _database.AddOrgAccountAsync(org, new())), await _database.AddAgentAsync(org)];
        await _database.AddKeyAsync(agents[0], new());
        return (org, agents);
    }
}
