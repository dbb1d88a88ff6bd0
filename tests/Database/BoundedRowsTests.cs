using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Diagnostics;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>The rows and text lengths that a lookup reads are bounded, and the result is the same as with all of them.</summary>
public sealed class BoundedRowsTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private static readonly string?[] s_connectedStatuses = ["active", "error", " ", null];
    private static readonly string[] s_disconnectedStatuses = ["inactive", " Not_Connected\u2003"];

    private readonly Guid _org = Guid.NewGuid();

    [Fact]
    public async Task EveryStatus_IsConnectedInSqlExactlyIfInTheDomain()
    {
        var characters = Enumerable.Range(1, char.MaxValue).Select(code => (char)code).Where(character => !char.IsSurrogate(character)).ToList();
        var lookalikes = characters.Where(character => character > 127 && (char.ToUpperInvariant(character) < 128 || char.ToLowerInvariant(character) < 128 || "ıİſKéà".Contains(character)));
        string[] statuses =
        [
            "", " ", "active", "Inactive", "INACTIVE", "not_connected", "Not_Connected", "not-connected", "inactive_", "xinactive", "error", "in active",
            .. characters.SelectMany(character => new[] { $"{character}inactive", $"NOT_connected{character}", $"{character}" }),
            .. lookalikes.SelectMany(character => Enumerable.Range(0, 8).Select(at => $"{"inactive"[..at]}{character}{"inactive"[(at + 1)..]}")),
            $"{new string(' ', 2040)}inactive", $"{new string(' ', 2041)}inactive", $"inactive{new string('\u2003', 3000)}",
        ];

        var inSql = await fixture.Tables.QueryAsync<bool>(
            $"select {AgentReader.IsConnectedSql} from unnest(@statuses) with ordinality stored (status, position), (values (true)) key (has_api_key) order by position", new { statuses });

        var cut = statuses.Select(status => status.Length > 2048 ? status[..2048] : status);
        Assert.Equal(cut.Select(status => !new CalcomAccount(Guid.Empty, null, true, null, status, null).IsDisconnected), inSql);
        Assert.Contains(false, inSql);
    }

    [Fact]
    public async Task AgentWithManyKeys_ResolvesCorrectlyFromAHundredRows()
    {
        // A view may contain several connected keys, and years that .NET does not support.
        var random = new Random(16);
        for (var round = 0; round < 40; round++)
        {
            var agent = await fixture.Views.AddAgentAsync(_org);
            var connected = round % 4;
            var keys = Enumerable.Range(0, 150).Select(i => new
            {
                Id = Guid.NewGuid(),
                Status = i < connected ? s_connectedStatuses[random.Next(4)] : s_disconnectedStatuses[random.Next(2)],
                Secret = i < connected || random.Next(2) is 0 ? "cal_secret" : null,
                Created = random.Next(12) switch
                {
                    0 => "infinity",
                    1 => $"{10_000 + random.Next(3)}-01-01",
                    2 => "-infinity",
                    3 => "0004-01-01 BC",
                    _ => DateTime.UnixEpoch.AddSeconds(random.Next(20)).ToString("O", CultureInfo.InvariantCulture),
                },
            }).OrderBy(_ => random.Next()).ToList();
            await fixture.Views.ExecuteAsync(
                """
                insert into public.assistant_secrets
                select key.id, @_org, @agent, 'name of ' || key.id, key.secret, 'https://cal.example/' || key.id, key.status, key.created::timestamptz
                from unnest(@ids, @secrets, @statuses, @created) key (id, secret, status, created)
                """,
                new
                {
                    _org,
                    agent,
                    ids = keys.Select(key => key.Id).ToArray(),
                    secrets = keys.Select(key => key.Secret).ToArray(),
                    statuses = keys.Select(key => key.Status).ToArray(),
                    created = keys.Select(key => key.Created).ToArray(),
                });

            var expected = AccountResolver.Decide(new(
                [.. keys.Select(key => new CalcomAccount(key.Id, $"name of {key.Id}", key.Secret is not null, $"https://cal.example/{key.Id}", key.Status, Instant(key.Created)))], null, null));
            var explained = JsonDocument.Parse((await fixture.ServiceOnViews.ExplainAccountAsync(agent, Tokens.OfOrganization(_org))).Body).RootElement.GetProperty("data");

            var effective = explained.GetProperty("effective");
            Assert.Equal(expected.Effective.Id?.ToString(), Text(effective, "calcom_account_id"));
            Assert.Equal(expected.Effective.Name, Text(effective, "account_name"));
            Assert.Equal(expected.Effective.ApiBaseUrl, Text(effective, "api_base_url"));
            Assert.Equal(expected.Effective.Status, Text(effective, "status"));
            Assert.Equal(101, explained.GetProperty("candidates").GetArrayLength());
        }
    }

    [Fact]
    public async Task AgentWithTenThousandKeys_ReadsAtMost200RowsByIndex()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        var agent = await database.AddAgentAsync(_org);
        await database.AddKeyAsync(agent, new() { CreatedAt = DateTime.UnixEpoch });
        await database.ExecuteAsync($"""
            insert into calcom.agents (org_id) select gen_random_uuid() from generate_series(1, 2000);
            insert into calcom.agent_keys (org_id, agent_id, api_key) select org_id, id, 'cal_secret' from calcom.agents where id <> '{agent}';
            insert into calcom.agent_keys (org_id, agent_id, api_key, status) select '{_org}', '{agent}', 'cal_secret', 'inactive' from generate_series(1, 10000);
            analyze
            """);
        var defaults = ConnectionStrings.ServiceDefaults(new(TimeSpan.FromSeconds(5), MaxConcurrentStatements: 2, MaxQueuedLookups: 4096, IsDistributed: false), servers: 1);
        await using var connection = new NpgsqlConnection($"{defaults}{database.ServiceConnectionString}");

        foreach (var mode in new[] { "force_custom_plan", "force_generic_plan" })
        {
            await connection.ExecuteAsync($"set plan_cache_mode = {mode}");
            var plan = await connection.ExecuteScalarAsync<string>(
                $"explain (analyze, format json) {AgentReader.Sql}", AgentReader.Parameters.ForSql([agent], [_org], [null]));

            var passed = Regex.Matches(plan!, "\"(Actual Rows|Rows Removed by Filter)\": (\\d+)").Select(match => int.Parse(match.Groups[2].Value, CultureInfo.InvariantCulture));
            Assert.True(passed.Max() is >= 100 and <= 200, plan);
        }
    }

    [Fact]
    public async Task ConnectedKey_OlderThanAHundredDisconnectedOnes_IsUsed()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var connected = await fixture.Tables.AddKeyAsync(agent, new() { CreatedAt = DateTime.UnixEpoch });
        await fixture.Tables.ExecuteAsync($"insert into calcom.agent_keys (org_id, agent_id, api_key, status) select '{_org}', '{agent}', 'cal_secret', 'inactive' from generate_series(1, 300)");

        var answer = await fixture.Service.GetAccountAsync(agent, Tokens.OfOrganization(_org));

        Assert.Contains($"\"calcom_account_id\":\"{connected}\",\"account_name\":\"Calendar\"", answer.Body, StringComparison.Ordinal);
    }

    [Fact]
    public async Task LongTexts_AreTruncatedTo2048Characters()
    {
        var (ofKey, linked) = (await fixture.Views.AddAgentAsync(_org), Guid.NewGuid());
        var account = new StoredAccount { Name = new('n', 10_000_000), ApiBaseUrl = new('u', 2049), Status = string.Concat(Enumerable.Repeat("😀", 2100)) };
        await fixture.Views.AddKeyAsync(ofKey, account);
        var ofLink = await fixture.Views.AddAgentAsync(_org, await fixture.Views.AddOrgAccountAsync(_org, account with { Id = linked }));

        foreach (var agent in new[] { ofKey, ofLink })
        {
            var data = JsonDocument.Parse((await fixture.ServiceOnViews.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Body).RootElement.GetProperty("data");
            Assert.Equal(account.Name[..2048], Text(data, "account_name"));
            Assert.Equal(account.ApiBaseUrl[..2048], Text(data, "api_base_url"));
            Assert.Equal(account.Status[..(2 * 2048)], Text(data, "status"));
        }
    }

    [Theory]
    [InlineData("account_name", 255)]
    [InlineData("status", 64)]
    [InlineData("api_base_url", 2048)]
    public async Task OwnTables_TooLongText_ViolatesCheckConstraint(string column, int longest)
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        foreach (var into in new[] { $"calcom.agent_keys (agent_id, {column}) values ('{agent}'", $"calcom.org_accounts (org_id, {column}) values ('{_org}'" })
        {
            await fixture.Tables.ExecuteAsync($"insert into {into}, repeat('é', {longest}))");
            var refused = await Assert.ThrowsAsync<PostgresException>(() => fixture.Tables.ExecuteAsync($"insert into {into}, repeat('é', {longest + 1}))"));
            Assert.Equal(PostgresErrorCodes.CheckViolation, refused.SqlState);
        }
    }

    [Fact]
    public async Task Migration_ExistingRowsWithLongTexts_KeepsThem()
    {
        var database = await TestDatabase.OfEarlierTablesAsync(fixture.Server, lastFile: "002_reader_role.sql");
        var agent = await database.AddAgentAsync(_org);

        // As a writer of that version does.
        await database.ExecuteAsync(
            "insert into calcom.agent_keys (agent_id, account_name, api_key) values (@agent, @name, 'cal_secret')", new { agent, name = new string('n', 3000) });

        Assert.Contains("003_bounded_rows.sql", await DatabaseMigrator.MigrateAsync(database.OwnerConnectionString, CancellationToken.None));

        Assert.Equal([3000], await database.QueryAsync<int>("select length(account_name) from calcom.agent_keys"));
        await using var service = await TestService.StartAsync(database.ServiceConnectionString);
        Assert.Contains($"\"account_name\":\"{new string('n', 2048)}\"", (await service.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Body, StringComparison.Ordinal);
        Assert.Equal(1, (await DatabaseCheck.RunAsync(database.ServiceConnectionString, isDistributed: false, CancellationToken.None)).Data!.LongText);
    }

    private static string? Text(JsonElement data, string key) => data.TryGetProperty(key, out var value) ? value.GetString() : null;

    private static DateTime Instant(string created) =>
        created is "infinity" || created.StartsWith('1') && created.Length is 11 ? DateTime.MaxValue
        : created is "-infinity" || created.EndsWith("BC", StringComparison.Ordinal) ? DateTime.MinValue
        : DateTime.Parse(created, CultureInfo.InvariantCulture, DateTimeStyles.AdjustToUniversal | DateTimeStyles.AssumeUniversal);
}
