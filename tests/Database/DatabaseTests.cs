using System.Diagnostics;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Development;
using Dapper;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>docs/database.md: the tables, the role, and what one request costs.</summary>
public sealed class DatabaseTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private static readonly string[] s_files = ["001_tables.sql", "002_reader_role.sql", "003_bounded_rows.sql"];

    private readonly Guid _org = Guid.NewGuid();

    [Fact]
    public async Task MigratingTwiceIsHarmless()
    {
        var database = await fixture.Server.CreateDatabaseAsync();

        Assert.Equal(s_files, await DatabaseMigrator.MigrateAsync(database, CancellationToken.None));
        Assert.Empty(await DatabaseMigrator.MigrateAsync(database, CancellationToken.None));
    }

    [Fact]
    public async Task MigratingAtOnceDoesEachStepOnce()
    {
        var databases = await Task.WhenAll(fixture.Server.CreateDatabaseAsync(), fixture.Server.CreateDatabaseAsync());

        var applied = await Task.WhenAll(Enumerable.Range(0, 8).Select(
            i => Task.Run(() => DatabaseMigrator.MigrateAsync(databases[i % 2], CancellationToken.None))));

        Assert.Equal(2 * s_files.Length, applied.Sum(files => files.Count));
    }

    [Theory]
    [InlineData("select pg_advisory_xact_lock(74085709344621)")]
    [InlineData("create schema calcom")]
    public async Task AMigrationThatIsHeldUpSaysSo_AndRunsWhenThatHasEnded(string sql)
    {
        var database = await fixture.Server.CreateDatabaseAsync();
        await using var connection = new NpgsqlConnection(database);
        await connection.OpenAsync();
        await using var transaction = await connection.BeginTransactionAsync();
        await connection.ExecuteAsync(sql);

        var started = Stopwatch.GetTimestamp();
        var refusal = await Assert.ThrowsAsync<StartupException>(() => DatabaseMigrator.MigrateAsync(database, CancellationToken.None));
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 15);
        Assert.Contains(": lock timeout: another session", refusal.Message, StringComparison.Ordinal);

        await transaction.RollbackAsync();
        Assert.Equal(s_files, await DatabaseMigrator.MigrateAsync(database, CancellationToken.None));
    }

    [Fact]
    public async Task AMigrationThatIsRefusedAStepLeavesNothingBehind()
    {
        // A server of its own: on the shared one the role is already there.
        await using var server = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        await using var connection = new NpgsqlConnection(server.ConnectionString);
        await connection.ExecuteAsync("create role owner_without_createrole login password 'only-in-tests'");
        await connection.ExecuteAsync("create database platform owner owner_without_createrole");
        var owner = new NpgsqlConnectionStringBuilder(server.ConnectionString)
        {
            Database = "platform",
            Username = "owner_without_createrole",
            Password = "only-in-tests",
        }.ConnectionString;

        var refusal = await Assert.ThrowsAsync<StartupException>(() => DatabaseMigrator.MigrateAsync(owner, CancellationToken.None));
        Assert.Contains("permission denied (SQLSTATE 42501", refusal.Message, StringComparison.Ordinal);
        Assert.Contains("calcom_reader", refusal.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("only-in-tests", refusal.Message, StringComparison.Ordinal);
        await using (var platform = new NpgsqlConnection(owner))
        {
            Assert.Equal(0, await platform.ExecuteScalarAsync<long>("select count(*) from pg_namespace where nspname = 'calcom'"));
        }

        await connection.ExecuteAsync("create role calcom_reader nologin");
        Assert.Equal(s_files, await DatabaseMigrator.MigrateAsync(owner, CancellationToken.None));
    }

    [Theory]
    [InlineData("Username=owner;Database=platform", "platform")]
    [InlineData("Username=owner", "owner")]
    [InlineData("Timeout=5", "named like the user")]
    public async Task AMigrationSaysWhichServerIsOutOfReach_AndWhy(string settings, string database)
    {
        var refusal = await Assert.ThrowsAsync<StartupException>(
            () => DatabaseMigrator.MigrateAsync($"Host=127.0.0.1;Port=1;Password=only-in-tests;{settings}", CancellationToken.None));

        Assert.Equal(
            $"could not migrate 127.0.0.1:1, database {database}: Failed to connect to 127.0.0.1:1 (Connection refused)", refusal.Message);
    }

    [Theory]
    [InlineData("db1,db2:5433,[::1]:5434,::1", "db1:5432,db2:5433,[::1]:5434,::1:5432")]
    [InlineData("/run/postgresql", "/run/postgresql:5432")]
    public void SeveralServersAreNamedEachWithItsPort(string host, string named) =>
        Assert.Equal($"{named}, database platform", ConnectionStrings.Describe(new() { Host = host, Database = "platform", Username = "owner" }));

    [Fact]
    public async Task AMigrationIntoTablesOfTheSameNamesSaysSo()
    {
        var database = await fixture.Server.CreateDatabaseAsync();
        await using var connection = new NpgsqlConnection(database);
        await connection.ExecuteAsync("create schema calcom; create table calcom.agents ()");

        var refusal = await Assert.ThrowsAsync<StartupException>(() => DatabaseMigrator.MigrateAsync(database, CancellationToken.None));

        Assert.Matches(@": 001_tables\.sql: a relation of that name exists already \(SQLSTATE 42P07.*\)\. Nothing was changed$", refusal.Message);
    }

    // The index knows no more than the policy does: what is connected there may stand once here.
    public static TheoryData<bool, string?, bool> ConnectedStates()
    {
        var data = new TheoryData<bool, string?, bool>();
        foreach (var (hasApiKey, status, connected, _) in AccountStates.All)
        {
            data.Add(hasApiKey, status, connected);
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(ConnectedStates))]
    public async Task AnAgentHasAtMostOneConnectedKey(bool hasApiKey, string? status, bool connected)
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var key = new StoredAccount { Status = status, ApiKey = hasApiKey ? "cal_secret" : null };
        await fixture.Tables.AddKeyAsync(agent, new());

        var second = await Record.ExceptionAsync(() => fixture.Tables.AddKeyAsync(agent, key));

        Assert.Equal(connected ? PostgresErrorCodes.UniqueViolation : null, (second as PostgresException)?.SqlState);
    }

    [Fact]
    public async Task AnAgentIsLinkedOnlyToAnAccountOfItsOrganization()
    {
        var foreign = await fixture.Tables.AddOrgAccountAsync(Guid.NewGuid(), new());

        var refusal = await Assert.ThrowsAsync<PostgresException>(() => fixture.Tables.AddAgentAsync(_org, foreign));

        Assert.Equal(PostgresErrorCodes.ForeignKeyViolation, refusal.SqlState);
    }

    [Theory]
    [InlineData("agent_keys")]
    [InlineData("org_accounts")]
    public async Task AKeyThatIsNullOrBlankIsNone(string table)
    {
        var owner = table is "agent_keys" ? "agent_id" : "org_id";
        var id = table is "agent_keys" ? await fixture.Tables.AddAgentAsync(_org) : _org;

        var hasApiKey = await fixture.Tables.QueryAsync<bool>(
            $"insert into calcom.{table} ({owner}, api_key, status) values (@id, null, 'a'), (@id, '', 'b'), (@id, ' ', 'c'), (@id, 'k', 'd') returning has_api_key",
            new { id });

        Assert.Equal([false, false, false, true], hasApiKey);
    }

    [Theory]
    [InlineData("select id, org_id, name, org_account_id, deleted_at from calcom.agents")]
    [InlineData("select id, agent_id, account_name, has_api_key, api_base_url, status, created_at from calcom.agent_keys")]
    [InlineData("select id, org_id, account_name, has_api_key, api_base_url, status, created_at from calcom.org_accounts")]
    [InlineData("select org_id, subject from calcom.org_members")]
    public async Task TheServicesLoginReadsWhatItNeeds(string sql) => Assert.Null(await RunAsServiceAsync(sql));

    [Theory]
    [InlineData("select api_key from calcom.agent_keys")]
    [InlineData("select api_key from calcom.org_accounts")]
    [InlineData("select * from calcom.agent_keys")]
    [InlineData("select k from calcom.org_accounts k")]
    [InlineData("select count(*) from calcom.agent_keys where api_key like 'a%'")]
    [InlineData("insert into calcom.agents (org_id) values (gen_random_uuid())")]
    [InlineData("insert into calcom.org_members values (gen_random_uuid(), 'me')")]
    [InlineData("update calcom.agents set name = 'x'")]
    [InlineData("update calcom.agent_keys set status = 'x'")]
    [InlineData("update calcom.org_accounts set status = 'x'")]
    [InlineData("update calcom.org_members set subject = 'x'")]
    [InlineData("delete from calcom.agents")]
    [InlineData("delete from calcom.agent_keys")]
    [InlineData("delete from calcom.org_accounts")]
    [InlineData("delete from calcom.org_members")]
    [InlineData("truncate calcom.org_members")]
    [InlineData("create table calcom.mine ()")]
    [InlineData("drop table calcom.agent_keys")]
    [InlineData("select * from calcom.schema_versions")]
    [InlineData("create role mine")]
    public async Task TheServicesLoginCanNeitherReadAKeyNorWrite(string sql) =>
        Assert.Equal(PostgresErrorCodes.InsufficientPrivilege, (await RunAsServiceAsync(sql))?.SqlState);

    [Fact]
    public async Task ASessionCanNotWriteAndDoesNotLast_EvenAsTheOwner()
    {
        await using var service = await TestService.StartAsync(fixture.Tables.OwnerConnectionString);
        await using var connection = await service.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();

        var refusal = await Assert.ThrowsAsync<PostgresException>(() => connection.ExecuteAsync("delete from calcom.org_members"));
        Assert.Equal(PostgresErrorCodes.ReadOnlySqlTransaction, refusal.SqlState);
        refusal = await Assert.ThrowsAsync<PostgresException>(() => connection.ExecuteAsync("select pg_sleep(3)"));
        Assert.Equal(PostgresErrorCodes.QueryCanceled, refusal.SqlState);
        Assert.Equal("1500ms", await SettingAsync(connection, "statement_timeout"));
        Assert.Equal("1500ms", await SettingAsync(connection, "idle_in_transaction_session_timeout"));
        Assert.Equal("calcom-accounts", await SettingAsync(connection, "application_name"));
    }

    [Fact]
    public async Task WhatTheConnectionStringSaysWins()
    {
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString + ";Application Name=mine;Options=-c statement_timeout=4321", new() { ["CalcomAccounts:RequestTimeoutSeconds"] = "10" });
        await using var connection = await service.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();

        Assert.Equal("mine", await SettingAsync(connection, "application_name"));
        Assert.Equal("4321ms", await SettingAsync(connection, "statement_timeout"));
        Assert.Equal(4, connection.CommandTimeout);

        // What a pooler that takes no options needs.
        await using var plain = await TestService.StartAsync(fixture.Tables.ServiceConnectionString + ";Options=");
        await using var session = await plain.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();
        Assert.Equal("0", await SettingAsync(session, "statement_timeout"));
    }

    [Fact]
    public async Task ARequestCostsOneStatement_WhateverItsOutcome()
    {
        var account = await fixture.Tables.AddOrgAccountAsync(_org, new());
        var agent = await fixture.Tables.AddAgentAsync(_org, account);
        await fixture.Tables.AddKeyAsync(agent, new());
        await fixture.Tables.AddMemberAsync(_org, "member");
        var service = fixture.Service;

        Assert.Equal(1, await CountStatementsAsync(() => service.GetAccountAsync(agent, Tokens.OfOrganization(_org)), 200));
        Assert.Equal(1, await CountStatementsAsync(() => service.GetAccountAsync(agent, Tokens.OfSubject("member")), 200));
        Assert.Equal(1, await CountStatementsAsync(() => service.GetAccountAsync(agent, Tokens.OfSubject("member"), $"?org_id={_org}"), 200));
        Assert.Equal(1, await CountStatementsAsync(() => service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(_org)), 404));
        Assert.Equal(1, await CountStatementsAsync(() => service.ExplainAccountAsync(agent, Tokens.OfOrganization(_org)), 200));
        Assert.Equal(1, await CountStatementsAsync(() => service.GetAccountsAsync([.. Enumerable.Repeat(agent, 100)], Tokens.OfSubject("member")), 200));
        Assert.Equal(0, await CountStatementsAsync(() => service.SendAsync("GET", TestService.AccountPath("garbage"), Tokens.OfOrganization(_org)), 400));
        Assert.Equal(0, await CountStatementsAsync(() => service.GetAccountsAsync([], Tokens.OfOrganization(_org)), 400));
        Assert.Equal(0, await CountStatementsAsync(() => service.GetAccountAsync(agent, token: null), 401));
    }

    [Fact]
    public async Task WithAMillionAgentsNoTableIsScanned()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await database.ExecuteAsync("""
            set session_replication_role = replica; -- no foreign key look-ups while filling
            create function pg_temp.id(kind int, n int) returns uuid language sql immutable as
                $$ select (lpad(to_hex(kind), 8, '0') || lpad(to_hex(n), 24, '0'))::uuid $$;
            insert into calcom.org_accounts (id, org_id, api_key)
                select pg_temp.id(1, n), pg_temp.id(2, n), 'cal_secret' from generate_series(1, 100000) n;
            insert into calcom.agents (id, org_id, org_account_id)
                select pg_temp.id(3, n), pg_temp.id(2, n % 100000), pg_temp.id(1, n % 100000) from generate_series(1, 1000000) n;
            insert into calcom.agent_keys (agent_id, api_key)
                select pg_temp.id(3, n), 'cal_secret' from generate_series(1, 1000000, 10) n;
            insert into calcom.org_members
                select pg_temp.id(2, n), 'user' || n from generate_series(1, 100000) n;
            analyze calcom.org_accounts, calcom.agents, calcom.agent_keys, calcom.org_members
            """);
        await using var connection = new NpgsqlConnection(database.ServiceConnectionString);
        await connection.OpenAsync();
        await connection.ExecuteAsync(
            "prepare find (uuid[], uuid[], text[]) as "
            + AgentReader.Sql.Replace("@AgentIds", "$1", StringComparison.Ordinal)
                .Replace("@OrgIds", "$2", StringComparison.Ordinal)
                .Replace("@Subjects", "$3", StringComparison.Ordinal));

        foreach (var planned in new[] { "force_custom_plan", "force_generic_plan" })
        {
            foreach (var lookups in new[] { 1, BatchingAgentReader.MaxBatch, GetAgentAccounts.MaxAgents })
            {
                await connection.ExecuteAsync($"set plan_cache_mode = {planned}");
                var plan = string.Join('\n', await connection.QueryAsync<string>($"""
                    explain execute find (
                        array_fill('00000003-0000-0000-0000-000000000001'::uuid, array[{lookups}]),
                        array_fill('00000002-0000-0000-0000-000000000001'::uuid, array[{lookups}]),
                        array_fill('user1'::text, array[{lookups}]))
                    """));

                Assert.DoesNotContain("Seq Scan", plan, StringComparison.Ordinal);
                foreach (var index in new[] { "agents_pkey", "agent_keys_agent_id", "org_accounts_", "org_members_pkey" })
                {
                    Assert.Contains(index, plan, StringComparison.Ordinal);
                }
            }
        }
    }

    [Fact]
    public void InCiTheTestsRunOnTestcontainers() =>
        Assert.True(fixture.Server.IsTestcontainers || Environment.GetEnvironmentVariable("CI") is not "true", fixture.Server.Description);

    private static Task<string?> SettingAsync(NpgsqlConnection connection, string name) =>
        connection.ExecuteScalarAsync<string>($"show {name}");

    private async Task<PostgresException?> RunAsServiceAsync(string sql)
    {
        await using var connection = new NpgsqlConnection(fixture.Tables.ServiceConnectionString);
        return (PostgresException?)await Record.ExceptionAsync(() => connection.ExecuteAsync(sql));
    }

    private async Task<int> CountStatementsAsync(Func<Task<Answer>> request, int expectedStatus)
    {
        using var statements = new StatementCounter(fixture.Tables);
        Assert.Equal(expectedStatus, (await request()).Status);
        return statements.Count;
    }
}
