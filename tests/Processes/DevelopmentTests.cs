using CalcomAccounts.Infrastructure.Development;

namespace CalcomAccounts.Tests.Processes;

/// <summary>The program in Development: its embedded database, and the requests that it suggests.</summary>
public sealed class DevelopmentTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Fact]
    public async Task DevelopmentStart_ShowsRequestsForTheConfiguredDatabase()
    {
        foreach (var (connectionString, expectedPath) in new[]
        {
            (await SampleData.LoadAsync(await fixture.Server.CreateDatabaseAsync(), CancellationToken.None), "/agents/a0000000-0000-4000-8000-000000000001/account"),
            (fixture.Tables.ServiceConnectionString, "/agents/<agent_id>/account"),
            ("Host=127.0.0.1;Port=1;Username=nobody", "/agents/<agent_id>/account"),
        })
        {
            using var process = ServiceProcess.Start([ProcessSettings.AnyPort], new() { ["ASPNETCORE_ENVIRONMENT"] = "Development", ["ConnectionStrings__CalcomAccounts"] = connectionString, ["CalcomAccounts__RequestTimeoutSeconds"] = "20" });
            await process.WaitForLineAsync("OpenAPI page: ");

            Assert.Contains(expectedPath, process.Output, StringComparison.Ordinal);
            Assert.Matches(@"(?m)^\d\d:\d\d:\d\d info: Microsoft\.Hosting\.Lifetime\[14\] Now listening on: ", process.Output);
        }
    }

    [Fact]
    public async Task EmbeddedPostgresStart_ReportsProgressAndTheFailure()
    {
        var folder = Directory.CreateTempSubdirectory().FullName;
        await File.WriteAllTextAsync($"{folder}/pg_ctl", "#!/bin/sh\n");
        await File.WriteAllTextAsync(
            $"{folder}/initdb",
            $"""
            #!/bin/sh
            [ "$1" = --version ] && echo "initdb (PostgreSQL) 99.1" && exit
            until [ -e {folder}/enough ]; do sleep 0.05; done
            echo the disk is full >&2
            exit 1
            """);
        await Shell.RunAsync($"chmod -R 755 {folder}");

        using var process = ServiceProcess.Start(
            [ProcessSettings.AnyPort], new() { ["ASPNETCORE_ENVIRONMENT"] = "Development", ["PATH"] = $"{folder}:{Environment.GetEnvironmentVariable("PATH")}" });

        await process.WaitForLineAsync($"  PostgreSQL 99.1 from {folder}: initializing the data directory ...");
        await File.WriteAllTextAsync($"{folder}/enough", "");
        Assert.Equal(1, await process.WaitForExitAsync());
        Assert.Matches("^calcom-accounts: .+/initdb .+ failed: the disk is full$", process.Errors);
        Directory.Delete(folder, recursive: true);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task KilledService_EmbeddedDatabaseIsRemoved(bool withAllItsChildren)
    {
        using var process = ServiceProcess.Start([ProcessSettings.AnyPort], new() { ["ASPNETCORE_ENVIRONMENT"] = "Development" });
        await process.WaitForLineAsync("OpenAPI page: ");
        var database = new StartedDatabase(await process.WaitForLineAsync("psql "));
        Assert.False(database.IsGone);

        process.Kill(withAllItsChildren);

        await Eventually.HoldsAsync(() => database.IsGone, TimeSpan.FromSeconds(10));
    }
}
