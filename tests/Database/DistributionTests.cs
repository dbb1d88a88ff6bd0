using System.Text.Json.Nodes;
using CalcomAccounts.Infrastructure.Agents;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>The schema of docs/scaling.md that is partitioned by organization.</summary>
public sealed class DistributionTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>, IAsyncLifetime
{
    private const int Partitions = 4;
    private const string Member = "member";

    private static readonly string s_tables = $"""
        drop table calcom.agent_keys, calcom.agents, calcom.org_accounts, calcom.org_members;
        create table calcom.org_accounts (
            org_id uuid, id uuid, account_name text, api_key text, has_api_key boolean generated always as (api_key is not null) stored,
            api_base_url text, status text, created_at timestamptz, primary key (org_id, id)) partition by hash (org_id);
        create table calcom.agents (
            org_id uuid, id uuid, name text, org_account_id uuid, deleted_at timestamptz, primary key (org_id, id),
            foreign key (org_id, org_account_id) references calcom.org_accounts) partition by hash (org_id);
        create index on calcom.agents (id);
        create table calcom.agent_keys (
            org_id uuid, id uuid, agent_id uuid, account_name text, api_key text, has_api_key boolean generated always as (api_key is not null) stored,
            api_base_url text, status text, created_at timestamptz, primary key (org_id, id),
            foreign key (org_id, agent_id) references calcom.agents) partition by hash (org_id);
        create index on calcom.agent_keys (org_id, agent_id);
        create table calcom.org_members (org_id uuid, subject text, primary key (org_id, subject)) partition by hash (org_id);
        do $$ begin
            for i in 0..{Partitions - 1} loop
                execute format('create table calcom.agents_%1$s partition of calcom.agents for values with (modulus {Partitions}, remainder %1$s)', i);
                execute format('create table calcom.agent_keys_%1$s partition of calcom.agent_keys for values with (modulus {Partitions}, remainder %1$s)', i);
                execute format('create table calcom.org_accounts_%1$s partition of calcom.org_accounts for values with (modulus {Partitions}, remainder %1$s)', i);
                execute format('create table calcom.org_members_%1$s partition of calcom.org_members for values with (modulus {Partitions}, remainder %1$s)', i);
            end loop;
        end $$;
        grant select on calcom.agents, calcom.org_members to calcom_reader;
        grant select (id, agent_id, account_name, has_api_key, api_base_url, status, created_at) on calcom.agent_keys to calcom_reader;
        grant select (id, org_id, account_name, has_api_key, api_base_url, status, created_at) on calcom.org_accounts to calcom_reader;
        """;

    private TestDatabase _database = null!;

    public async ValueTask InitializeAsync()
    {
        _database = await TestDatabase.OfTablesAsync(fixture.Server);
        await _database.ExecuteAsync(s_tables);
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    [Fact]
    public async Task PartitionedTables_EveryOutcome_IsReturned()
    {
        await using var service = await TestService.StartAsync(_database.ServiceConnectionString);
        Assert.Equal(200, (await service.SendAsync("GET", "/health/ready")).Status);
        for (var i = 0; i < Partitions; i++)
        {
            var org = await AddOrganizationAsync();
            foreach (var token in new[] { Tokens.OfOrganization(org.Id), Tokens.OfSubject(Member) })
            {
                foreach (var (agent, type) in org.Agents.Zip(["agent", "org_linked", "none"]))
                {
                    Assert.Contains($"\"type\":\"{type}\"", (await service.GetAccountAsync(agent, token)).Body, StringComparison.Ordinal);
                }
            }

            foreach (var token in new[] { Tokens.OfOrganization(Guid.NewGuid()), Tokens.OfSubject("stranger") })
            {
                Assert.Equal(404, (await service.GetAccountAsync(org.Agents[0], token)).Status);
            }
        }
    }

    [Theory]
    [InlineData(true, false, "agent_keys 1, agents 1, org_accounts 1")]
    [InlineData(true, true, "agent_keys 1, agents 1, org_accounts 1, org_members 1")]
    [InlineData(false, true, "agent_keys 1, agents [1-4], org_accounts 1, org_members 1")]
    public async Task Lookup_WithOrganization_ReadsOnePartitionPerTable(bool namesOrganization, bool isMember, string expectedPartitions)
    {
        var org = await AddOrganizationAsync();
        var change = Assert.Single(Docs.Blocks("docs/scaling.md", "diff")).Split('\n');
        var (line, replacement) = (change[0].TrimStart('-'), change[1].TrimStart('+'));
        Assert.Contains(line, AgentReader.Sql, StringComparison.Ordinal);

        await using var connection = new NpgsqlConnection(_database.OwnerConnectionString);
        var plan = JsonNode.Parse((await connection.ExecuteScalarAsync<string>(
            $"explain (analyze, format json) {AgentReader.Sql.Replace(line, replacement, StringComparison.Ordinal)}",
            new AgentReader.Parameters([org.Agents[1]], [namesOrganization ? org.Id : null], [isMember ? Member : null])))!)![0]!["Plan"]!;

        Assert.Matches(
            $"^{expectedPartitions}$",
            string.Join(", ", ReadPartitions(plan).Distinct().GroupBy(partition => partition[..partition.LastIndexOf('_')]).OrderBy(table => table.Key).Select(table => $"{table.Key} {table.Count()}")));
    }

    /// <summary>The partitions that were read, even if nothing was found there.</summary>
    private static IEnumerable<string> ReadPartitions(JsonNode node)
    {
        var here = node["Relation Name"] is { } relation && node["Actual Loops"]!.GetValue<double>() > 0 ? new[] { relation.GetValue<string>() } : [];
        return here.Concat((node["Plans"]?.AsArray() ?? []).SelectMany(child => ReadPartitions(child!)));
    }

    /// <summary>An organization with a member, and an agent for each outcome.</summary>
    private async Task<(Guid Id, Guid[] Agents)> AddOrganizationAsync()
    {
        var org = Guid.NewGuid();
        var account = Guid.NewGuid();
        var agents = new[] { Guid.NewGuid(), Guid.NewGuid(), Guid.NewGuid() };
        await _database.ExecuteAsync(
            """
            insert into calcom.org_accounts (org_id, id, api_key) values (@org, @account, 'key');
            insert into calcom.agents (org_id, id, org_account_id) values (@org, @own, null), (@org, @linked, @account), (@org, @neither, null);
            insert into calcom.agent_keys (org_id, id, agent_id, api_key) values (@org, gen_random_uuid(), @own, 'key');
            insert into calcom.org_members (org_id, subject) values (@org, @Member);
            """,
            new { org, account, own = agents[0], linked = agents[1], neither = agents[2], Member });
        return (org, agents);
    }
}
