using Npgsql;

namespace CalcomAccounts.Tests.Processes;

/// <summary>docs/operations.md: the command <c>migrate</c>.</summary>
public sealed class MigrateTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Fact]
    public async Task Migrate_RunTwice_AppliesScriptsOnce()
    {
        var settings = new Dictionary<string, string> { ["ConnectionStrings__CalcomAccounts"] = await fixture.Server.CreateDatabaseAsync() };

        foreach (var expectedOutput in new[] { @"applied 001_tables\.sql, 002_reader_role\.sql, .*\d+_\w+\.sql", "already at the current schema" })
        {
            using var migrate = ServiceProcess.Start(["migrate"], settings);
            Assert.Equal((0, ""), (await migrate.WaitForExitAsync(), migrate.Errors));
            Assert.Matches($"^{expectedOutput}$", migrate.Output);
        }
    }

    [Fact]
    public async Task Migrate_WithoutConnectionString_NamesTheMissingSetting() =>
        await ProcessRefusal.AssertAsync(["migrate"], [], "ConnectionStrings:CalcomAccounts", "--help");

    [Fact]
    public async Task Migrate_ServerUnreachable_NamesTheServer() => await ProcessRefusal.AssertAsync(
        ["migrate"],
        new() { ["ConnectionStrings__CalcomAccounts"] = $"Host=127.0.0.1;Port=1;Database=platform;Username=owner;Password={ProcessSettings.Secret}" },
        "127.0.0.1:1, database platform");

    [Fact]
    public async Task Migrate_WithoutPrivilege_SaysPermissionDenied() => await ProcessRefusal.AssertAsync(
        ["migrate"],
        new() { ["ConnectionStrings__CalcomAccounts"] = new NpgsqlConnectionStringBuilder(fixture.Tables.ServiceConnectionString) { Database = "postgres" }.ConnectionString },
        "permission denied", "Nothing was changed");
}
