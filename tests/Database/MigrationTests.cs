using System.Diagnostics;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Development;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>docs/database.md: each script is applied once, and all of them or none.</summary>
public sealed class MigrationTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private static readonly string[] s_files = ["001_tables.sql", "002_reader_role.sql", "003_bounded_rows.sql"];

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
    public async Task Migration_WithoutCreateRolePrivilege_RollsBackEverything()
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
            insert into calcom.schema_versions (scriptname, applied) values
                ('CalcomAccounts.Infrastructure.Sql.001_tables.sql', '2026-01-01'),
                ('CalcomAccounts.Infrastructure.Sql.002_reader_role.sql', '2026-01-01'),
                ('CalcomAccounts.Infrastructure.Sql.003_bounded_rows.sql', '2026-01-01')
            """);
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
            [
                "CalcomAccounts.Infrastructure.Sql.001_tables.sql",
                "CalcomAccounts.Infrastructure.Sql.002_reader_role.sql",
                "CalcomAccounts.Infrastructure.Sql.003_bounded_rows.sql",
            ],
            await connection.QueryAsync<string>("select scriptname from calcom.schema_versions order by scriptname"));
    }

    /// <summary>Every relation and constraint of the schema with its oid, which would change if it were created again, and the journal.</summary>
    private static async Task<IReadOnlyList<string>> DescribeAsync(NpgsqlConnection connection) => [.. await connection.QueryAsync<string>("""
        select relname || ' ' || oid || ' ' || relfilenode from pg_class where relnamespace = 'calcom'::regnamespace
        union all select conname || ' ' || oid from pg_constraint where connamespace = 'calcom'::regnamespace
        union all select scriptname || ' ' || applied from calcom.schema_versions
        order by 1
        """)];
}
