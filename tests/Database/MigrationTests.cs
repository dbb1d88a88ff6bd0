using System.Diagnostics;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Development;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>docs/database.md: each file is applied once, as a whole or not at all, and readers go on meanwhile.</summary>
public sealed class MigrationTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private static readonly string[] s_files =
    [
        "001_tables.sql", "002_reader_role.sql", "003_bounded_rows.sql", "004_organization_of_keys.sql", "005_organization_of_existing_keys.sql",
        "006_indexes_by_organization.sql", "007_keys_by_organization.sql", "008_validate_foreign_keys.sql",
    ];

    [Fact]
    public async Task SecondMigration_AppliesNothing()
    {
        var database = await fixture.Server.CreateDatabaseAsync();

        Assert.Equal(s_files, await DatabaseMigrator.MigrateAsync(database, CancellationToken.None));
        Assert.Empty(await DatabaseMigrator.MigrateAsync(database, CancellationToken.None));
    }

    [Fact]
    public async Task ConcurrentMigrations_ApplyEachScriptOnce()
    {
        var databases = await Task.WhenAll(fixture.Server.CreateDatabaseAsync(), fixture.Server.CreateDatabaseAsync());

        var applied = await Task.WhenAll(Enumerable.Range(0, 8).Select(
            i => Task.Run(() => DatabaseMigrator.MigrateAsync(databases[i % 2], CancellationToken.None))));

        Assert.Equal(2 * s_files.Length, applied.Sum(files => files.Count));
    }

    [Theory]
    [InlineData("select pg_advisory_xact_lock(74085709344621)")]
    [InlineData("create schema calcom")]
    public async Task Migration_BlockedByLock_FailsAfterSixSecondsAndSucceedsOnceReleased(string sql)
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
    public async Task Migration_WithoutCreateRolePrivilege_FailsAndGoesOnWhereItStopped()
    {
        // On a separate server, as the shared one has the role already.
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
        Assert.EndsWith(". Applied before: 001_tables.sql", refusal.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("only-in-tests", refusal.Message, StringComparison.Ordinal);
        await connection.ExecuteAsync("create role calcom_reader nologin");
        Assert.Equal(s_files[1..], await DatabaseMigrator.MigrateAsync(owner, CancellationToken.None));
    }

    [Theory]
    [InlineData("Username=owner;Database=platform", "platform")]
    [InlineData("Username=owner", "owner")]
    [InlineData("Timeout=5", "named like the user")]
    public async Task Migration_ServerUnreachable_NamesServerDatabaseAndCause(string settings, string database)
    {
        var refusal = await Assert.ThrowsAsync<StartupException>(
            () => DatabaseMigrator.MigrateAsync($"Host=127.0.0.1;Port=1;Password=only-in-tests;{settings}", CancellationToken.None));

        Assert.Equal(
            $"could not migrate 127.0.0.1:1, database {database}: Failed to connect to 127.0.0.1:1 (Connection refused)", refusal.Message);
    }

    [Fact]
    public async Task Migration_TablesAlreadyExist_FailsAndNamesTheScript()
    {
        var database = await fixture.Server.CreateDatabaseAsync();
        await using var connection = new NpgsqlConnection(database);
        await connection.ExecuteAsync("create schema calcom; create table calcom.agents ()");

        var refusal = await Assert.ThrowsAsync<StartupException>(() => DatabaseMigrator.MigrateAsync(database, CancellationToken.None));

        Assert.Matches(@": 001_tables\.sql: a relation of that name exists already \(SQLSTATE 42P07.*\)\. Nothing was changed$", refusal.Message);
    }

    // The literal names that journals of existing databases hold: a renamed script would run again.
    [Fact]
    public async Task Migration_OfDatabaseMigratedByEarlierVersion_ChangesNothing()
    {
        var database = await fixture.Server.CreateDatabaseAsync();
        await DatabaseMigrator.MigrateAsync(database, CancellationToken.None);
        await using var connection = new NpgsqlConnection(database);
        await connection.ExecuteAsync("""
            delete from calcom.schema_versions;
            insert into calcom.schema_versions (scriptname, applied)
                select 'CalcomAccounts.Infrastructure.Sql.' || file, '2026-01-01' from unnest(@s_files) file
            """,
            new { s_files });
        var before = await DescribeAsync(connection);

        Assert.Empty(await DatabaseMigrator.MigrateAsync(database, CancellationToken.None));

        Assert.Equal(before, await DescribeAsync(connection));
    }

    [Fact]
    public async Task Journal_AfterMigration_HoldsTheScriptNamesOfEarlierVersions()
    {
        var database = await fixture.Server.CreateDatabaseAsync();
        await DatabaseMigrator.MigrateAsync(database, CancellationToken.None);
        await using var connection = new NpgsqlConnection(database);

        Assert.Equal(
            s_files.Select(file => $"CalcomAccounts.Infrastructure.Sql.{file}"),
            await connection.QueryAsync<string>("select scriptname from calcom.schema_versions order by scriptname"));
    }

    [Fact]
    public async Task Migration_OfTablesWithoutOrganizationOfKeys_KeepsEveryRowAndLetsReadersGoOn()
    {
        const int Agents = 100_000;
        var database = await TestDatabase.OfEarlierTablesAsync(fixture.Server, lastFile: "003_bounded_rows.sql");
        await database.ExecuteAsync($"""
            insert into calcom.org_accounts (org_id, api_key) select gen_random_uuid(), 'cal_secret' from generate_series(1, 1000);
            insert into calcom.agents (org_id, org_account_id) select org_id, id from calcom.org_accounts cross join generate_series(1, {Agents / 1000});
            insert into calcom.agent_keys (agent_id, api_key, status, account_name) select id, 'cal_secret', 'inactive', 'Key of ' || id from calcom.agents;
            insert into calcom.agent_keys (agent_id, api_key, account_name) select id, 'cal_secret', 'Connected key of ' || id from calcom.agents limit 1000;
            analyze
            """);
        const string Rows = "select id, agent_id, account_name, api_key, api_base_url, status, created_at from calcom.agent_keys order by id";
        var before = await database.QueryAsync<(Guid, Guid, string, string, string, string, DateTime)>(Rows);
        var agent = (await database.QueryAsync<Guid>("select agent_id from calcom.agent_keys where status = 'active' limit 1"))[0];

        // A reader that finds keys by their agent alone, as the version before does, and a writer who knows no organization of a key.
        using var ended = new CancellationTokenSource();
        var longest = TimeSpan.Zero;
        var reading = Task.Run(async () =>
        {
            while (!ended.IsCancellationRequested)
            {
                var started = Stopwatch.GetTimestamp();
                Assert.NotEmpty(await database.QueryAsync<string>(
                    "select key.status from calcom.agents join calcom.agent_keys key on key.agent_id = agents.id left join calcom.org_accounts on org_accounts.id = org_account_id where agents.id = @agent",
                    new { agent }));
                longest = Stopwatch.GetElapsedTime(started) is var elapsed && elapsed > longest ? elapsed : longest;
            }
        });
        var written = new List<Guid>();
        var writing = Task.Run(async () =>
        {
            while (!ended.IsCancellationRequested)
            {
                written.AddRange(await database.QueryAsync<Guid>("insert into calcom.agent_keys (agent_id, status) values (@agent, 'inactive') returning id", new { agent }));
                await Task.Delay(20);
            }
        });

        Assert.Equal(s_files[3..], await DatabaseMigrator.MigrateAsync(database.OwnerConnectionString, CancellationToken.None));
        await ended.CancelAsync();
        await Task.WhenAll(reading, writing);

        Assert.InRange(longest.TotalMilliseconds, 0, 1000);
        var after = await database.QueryAsync<(Guid Id, Guid, string, string, string, string, DateTime)>(Rows);
        Assert.Equal(before, after.Where(row => !written.Contains(row.Id)));
        Assert.Equal(before.Count + written.Count, after.Count);
        Assert.Equal([0], await database.QueryAsync<long>("select count(*) from calcom.agent_keys key join calcom.agents on agents.id = key.agent_id where key.org_id <> agents.org_id"));

        // The schema is that of a new database.
        var created = await TestDatabase.OfTablesAsync(fixture.Server);
        Assert.Equal(await DescribeSchemaAsync(created), await DescribeSchemaAsync(database));
    }

    [Fact]
    public async Task Migration_QuickFileBlockedByAReader_WaitsWithoutHoldingUpOthersForLong()
    {
        var database = await TestDatabase.OfEarlierTablesAsync(fixture.Server, lastFile: "006_indexes_by_organization.sql");
        var agent = await database.AddAgentAsync(Guid.NewGuid());
        await using var reader = new NpgsqlConnection(database.OwnerConnectionString + ";Pooling=false");
        await reader.OpenAsync();
        var transaction = await reader.BeginTransactionAsync();
        await reader.ExecuteAsync("select from calcom.org_accounts");

        var migrating = DatabaseMigrator.MigrateAsync(database.OwnerConnectionString, CancellationToken.None);
        var longest = TimeSpan.Zero;
        for (var i = 0; i < 10; i++)
        {
            var started = Stopwatch.GetTimestamp();
            Assert.Single(await database.QueryAsync<Guid>("select id from calcom.agents where id = @agent", new { agent }));
            longest = Stopwatch.GetElapsedTime(started) is var elapsed && elapsed > longest ? elapsed : longest;
            await Task.Delay(100);
        }

        Assert.False(migrating.IsCompleted);
        Assert.InRange(longest.TotalMilliseconds, 100, 1000);
        await transaction.CommitAsync();
        Assert.Equal(s_files[6..], await migrating);
    }

    // The version before may still write between two files.
    [Fact]
    public async Task Migration_AgentMovedToAnotherOrganizationMeanwhile_ItsKeyFollows()
    {
        var database = await TestDatabase.OfEarlierTablesAsync(fixture.Server, lastFile: "006_indexes_by_organization.sql");
        var (agent, org) = (await database.AddAgentAsync(Guid.NewGuid()), Guid.NewGuid());
        await database.AddKeyAsync(agent, new());
        await database.ExecuteAsync("update calcom.agents set org_id = @org where id = @agent", new { org, agent });

        Assert.Equal(s_files[6..], await DatabaseMigrator.MigrateAsync(database.OwnerConnectionString, CancellationToken.None));

        Assert.Equal([org], await database.QueryAsync<Guid>("select org_id from calcom.agent_keys"));
    }

    [Theory]
    [InlineData(200)]
    [InlineData(1200)]
    public async Task Migration_RowsLockedByAWriter_WaitsForIt(int milliseconds)
    {
        var database = await TestDatabase.OfEarlierTablesAsync(fixture.Server, lastFile: "004_organization_of_keys.sql");
        await database.AddKeyAsync(await database.AddAgentAsync(Guid.NewGuid()), new());
        await database.ExecuteAsync("alter table calcom.agent_keys disable trigger all; alter table calcom.agent_keys drop constraint agent_keys_org_id_not_null; update calcom.agent_keys set org_id = null; alter table calcom.agent_keys add constraint agent_keys_org_id_not_null check (org_id is not null) not valid; alter table calcom.agent_keys enable trigger all");
        await using var writer = new NpgsqlConnection(database.OwnerConnectionString + ";Pooling=false");
        await writer.OpenAsync();
        await using var transaction = await writer.BeginTransactionAsync();
        await writer.ExecuteAsync("select from calcom.agent_keys for update");

        var migrating = DatabaseMigrator.MigrateAsync(database.OwnerConnectionString, CancellationToken.None);
        await Task.Delay(milliseconds);
        await transaction.RollbackAsync();

        Assert.Equal(s_files[4..], await migrating);
    }

    [Theory]
    [InlineData("insert into calcom.agent_keys (org_id, agent_id) values (gen_random_uuid(), @agent)")]
    [InlineData("update calcom.agent_keys set org_id = gen_random_uuid() where agent_id = @agent")]
    [InlineData("update calcom.agents set org_id = gen_random_uuid() where id = @agent")]
    public async Task KeyOfAnotherOrganizationThanItsAgents_IsRejected(string sql)
    {
        var agent = await fixture.Tables.AddAgentAsync(Guid.NewGuid());
        await fixture.Tables.AddKeyAsync(agent, new());

        var refusal = await Assert.ThrowsAsync<PostgresException>(() => fixture.Tables.ExecuteAsync(sql, new { agent }));

        Assert.Equal(PostgresErrorCodes.ForeignKeyViolation, refusal.SqlState);
    }

    [Fact]
    public async Task KeyWrittenWithoutOrganization_GetsItsAgents()
    {
        var org = Guid.NewGuid();
        var agent = await fixture.Tables.AddAgentAsync(org);

        Assert.Equal([org], await fixture.Tables.QueryAsync<Guid>("insert into calcom.agent_keys (agent_id) values (@agent) returning org_id", new { agent }));
        Assert.Equal([org], await fixture.Tables.QueryAsync<Guid>("update calcom.agent_keys set org_id = null where agent_id = @agent returning org_id", new { agent }));

        var otherOrg = Guid.NewGuid();
        var other = await fixture.Tables.AddAgentAsync(otherOrg);
        Assert.Equal([otherOrg], await fixture.Tables.QueryAsync<Guid>("update calcom.agent_keys set agent_id = @other where agent_id = @agent returning org_id", new { agent, other }));
    }

    private static Task<IReadOnlyList<string>> DescribeSchemaAsync(TestDatabase database) => database.QueryAsync<string>("""
        select format('%s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
        from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attrelid in (select oid from pg_class where relnamespace = 'calcom'::regnamespace and relkind = 'r') and attnum > 0 and not attisdropped
        union all select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint where connamespace = 'calcom'::regnamespace
        union all select indexdef from pg_indexes where schemaname = 'calcom'
        union all select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
        order by 1
        """);

    /// <summary>Every relation and constraint of the schema with its oid, which would change if it were created again, and the journal.</summary>
    private static async Task<IReadOnlyList<string>> DescribeAsync(NpgsqlConnection connection) => [.. await connection.QueryAsync<string>("""
        select relname || ' ' || oid || ' ' || relfilenode from pg_class where relnamespace = 'calcom'::regnamespace
        union all select conname || ' ' || oid from pg_constraint where connamespace = 'calcom'::regnamespace
        union all select scriptname || ' ' || applied from calcom.schema_versions
        order by 1
        """)];
}
