namespace CalcomAccounts.Tests.Processes;

/// <summary>The README's first command.</summary>
public sealed class DotnetRunTests
{
    [Fact]
    public async Task DotnetRun_EnvironmentSetToProduction_RequiresSettings()
    {
        foreach (var variable in new[] { "ASPNETCORE_ENVIRONMENT", "DOTNET_ENVIRONMENT" })
        {
            using var process = ServiceProcess.DotnetRun([ProcessSettings.AnyPort], new() { [variable] = "Production" });

            Assert.NotEqual(0, await process.WaitForExitAsync());
            Assert.Contains("ConnectionStrings:CalcomAccounts", process.Errors, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task DotnetRun_ServesEveryOutcomeAndCtrlCStopsServiceAndDatabase()
    {
        using var process = ServiceProcess.DotnetRun([ProcessSettings.AnyPort]);
        var page = await process.WaitForLineAsync("OpenAPI page: ");
        var database = new StartedDatabase(await process.WaitForLineAsync("psql "));
        Assert.Matches("(?m)^Starting the service's own PostgreSQL:\n(  PostgreSQL .+ \\.{3}\n)(  .+ \\.{3}\n)(  schema and sample data \\.{3}\n)", process.Output);

        foreach (var outcome in new[] { "agent", "org_linked", "none" })
        {
            Assert.Contains($"\"type\":\"{outcome}\"", await Shell.RunAsync(CurlLine(process, outcome)), StringComparison.Ordinal);
        }

        Assert.Contains("swagger", await Shell.RunAsync($"curl --location {page.Split(' ')[^1]}"), StringComparison.Ordinal);

        // A terminal sends the signal to both.
        ServiceProcess.Signal("INT", Assert.Single(ServiceProcess.ChildrenOf(process.Id)));
        ServiceProcess.Signal("INT", process.Id);
        Assert.Equal(0, await process.WaitForExitAsync());
        Assert.True(database.IsGone);
        Assert.Equal("", process.Errors);
    }

    [Fact]
    public async Task KilledDotnetRun_LeavesNoProcessOrDatabaseAndOtherRunsContinue()
    {
        using var other = ServiceProcess.DotnetRun([ProcessSettings.AnyPort]);
        using var killed = ServiceProcess.DotnetRun([ProcessSettings.AnyPort]);
        await Task.WhenAll(other.WaitForLineAsync("OpenAPI page: "), killed.WaitForLineAsync("OpenAPI page: "));
        var database = new StartedDatabase(await killed.WaitForLineAsync("psql "));
        var service = Assert.Single(ServiceProcess.ChildrenOf(killed.Id));
        Assert.False(database.IsGone);

        killed.Kill(withAllItsChildren: true);
        await Eventually.HoldsAsync(() => ServiceProcess.HasEnded(service) && database.IsGone, TimeSpan.FromSeconds(10));

        Assert.Contains("\"type\":\"agent\"", await Shell.RunAsync(CurlLine(other, "agent")), StringComparison.Ordinal);
    }

    private static string CurlLine(ServiceProcess process, string outcome) =>
        process.Output.Split('\n').SkipWhile(line => line != $"# {outcome}").ElementAt(1);
}
