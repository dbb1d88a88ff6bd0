using System.Text.Json;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>Whatever the statistics say, a lookup reads a bounded number of rows. One organization has a fifth of all agents.</summary>
public sealed class PlanTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    // A key and a linked account, or all rows of a table that is so small that this is faster than its indexes.
    private const int RowsPerLookup = 2;
    private const int SmallTable = 1000;

    [Theory]
    [InlineData(1_000)]
    [InlineData(100_000)]
    [InlineData(1_000_000)]
    public async Task Lookup_OfAnyNumberOfAgents_ReadsABoundedNumberOfRows(int agents)
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await FillAsync(database, agents);
        var defaults = ConnectionStrings.ServiceDefaults(new(TimeSpan.FromSeconds(5), MaxConcurrentStatements: 2, MaxQueuedLookups: 4096, IsDistributed: false), servers: 1);
        await using var connection = new NpgsqlConnection($"{defaults}{database.ServiceConnectionString}");
        await connection.OpenAsync();

        foreach (var (sql, types) in new[] { (AgentReader.Sql, "uuid[], uuid[], text[]"), (AgentReader.DistributedSql, "uuid[], text[], uuid") })
        {
            await connection.ExecuteAsync($"prepare find ({types}) as {sql}");
            foreach (var planned in new[] { "force_custom_plan", "force_generic_plan" })
            {
                await connection.ExecuteAsync($"set plan_cache_mode = {planned}");
                foreach (var lookups in new[] { 1, BatchingAgentReader.MaxBatch, GetAgentAccounts.MaxAgents })
                {
                    // Agents of the large organization are those with the lowest numbers.
                    var ids = $"array[{string.Join(", ", Enumerable.Range(1, lookups).Select(n => Id(3, $"{n}")))}]";
                    var org = Id(2, "0");
                    var subjects = $"array_fill('user0'::text, array[{lookups}])";
                    var plan = await connection.ExecuteScalarAsync<string>(
                        $"explain (analyze, format json) execute find ({ids}, {(types.EndsWith("uuid", StringComparison.Ordinal) ? $"{subjects}, {org}" : $"array_fill({org}, array[{lookups}]), {subjects}")})");

                    using var document = JsonDocument.Parse(plan!);
                    Assert.All(Scans(document.RootElement), scan => Assert.True(scan.Rows <= lookups * (agents > SmallTable ? RowsPerLookup : SmallTable), $"{agents} agents, {lookups} lookups, {planned}: {scan}\n{plan}"));
                    Assert.InRange(document.RootElement[0].GetProperty("Plan").GetProperty("Actual Rows").GetDouble(), lookups, 2 * lookups);
                }
            }

            await connection.ExecuteAsync("deallocate find");
        }

        // A page of the large organization, of whose agents nine in ten are deleted, and one of a small one.
        await database.ExecuteAsync($"update calcom.agents set deleted_at = now() where org_id = {Id(2, "0")} and ('x' || right(id::text, 7))::bit(28)::int % 10 <> 0; analyze calcom.agents");
        await connection.ExecuteAsync($"prepare page (uuid, text, uuid, uuid, bigint) as {AgentReader.PageSql}");
        foreach (var (org, after) in new[] { ("0", "0"), ("0", "10"), ("0", $"{agents / 10}"), ("9999", "0") })
        {
            foreach (var planned in new[] { "force_custom_plan", "force_generic_plan" })
            {
                foreach (var subject in new[] { "null", "'user0'" })
                {
                    await connection.ExecuteAsync($"set plan_cache_mode = {planned}");
                    var plan = await connection.ExecuteScalarAsync<string>(
                        $"explain (analyze, format json) execute page ({Id(2, org)}, {subject}, {Id(3, after)}, {Id(3, after)}, {ListAgentAccounts.MaxAgents + 1})");
                    using var document = JsonDocument.Parse(plan!);

                    // The agent that is left out is read, too.
                    Assert.All(Scans(document.RootElement), scan => Assert.True(scan.Rows <= (agents > SmallTable ? ListAgentAccounts.MaxAgents + 2 : SmallTable * SmallTable), $"{agents} agents, page, {planned}: {scan}\n{plan}"));
                }
            }
        }

        foreach (var (sql, parameters, rows) in new[]
        {
            (AgentReader.MembershipsSql, AgentReader.Parameters.ForMembershipsSql(["user0"]), 1),
            (AgentReader.AgentOrganizationSql, AgentReader.Parameters.ForAgentOrganizationSql([Guid.Parse("00000003-0000-0000-0000-00000000000a")], ["user0"]), 1),
        })
        {
            using var document = JsonDocument.Parse((await connection.ExecuteScalarAsync<string>($"explain (analyze, format json) {sql}", parameters))!);
            Assert.All(Scans(document.RootElement), scan => Assert.True(scan.Rows <= RowsPerLookup, $"{agents} agents: {scan}"));
            Assert.Equal(rows, document.RootElement[0].GetProperty("Plan").GetProperty("Actual Rows").GetDouble());
        }
    }

    /// <summary>Every scan of a table, with the rows that it passed, those that it removed included.</summary>
    private static IEnumerable<(string Table, double Rows)> Scans(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.Array => element.EnumerateArray().SelectMany(Scans),
        JsonValueKind.Object => element.EnumerateObject().SelectMany(property => Scans(property.Value))
            .Concat(element.TryGetProperty("Relation Name", out var table)
                ? [(table.GetString()!, (Number(element, "Actual Rows") + Number(element, "Rows Removed by Filter")) * Number(element, "Actual Loops"))]
                : []),
        _ => [],
    };

    private static string Id(int kind, string number) => $"(lpad(to_hex({kind}), 8, '0') || lpad(to_hex({number}), 24, '0'))::uuid";

    private static double Number(JsonElement element, string name) => element.TryGetProperty(name, out var value) ? value.GetDouble() : 0;

    private static Task FillAsync(TestDatabase database, int agents)
    {
        var organization = $"case when n <= {agents / 5} then 0 else n % 10000 end";
        return database.ExecuteAsync($"""
            set session_replication_role = replica; -- no foreign key look-ups while filling
            insert into calcom.org_accounts (id, org_id, api_key)
                select {Id(1, "n")}, {Id(2, "n")}, 'cal_secret' from generate_series(0, 9999) n;
            insert into calcom.agents (id, org_id, org_account_id)
                select {Id(3, "n")}, {Id(2, organization)}, {Id(1, organization)} from generate_series(1, {agents}) n;
            insert into calcom.agent_keys (org_id, agent_id, api_key)
                select {Id(2, organization)}, {Id(3, "n")}, 'cal_secret' from generate_series(10, {agents}, 10) n;
            insert into calcom.org_members
                select {Id(2, "n")}, 'user' || n from generate_series(0, 9999) n;
            analyze calcom.org_accounts, calcom.agents, calcom.agent_keys, calcom.org_members
            """);
    }
}
