using System.Net;

namespace CalcomAccounts.Tests.Processes;

/// <summary>docs/operations.md: graceful shutdown.</summary>
public sealed class ShutdownTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Fact]
    public async Task Sigterm_IdleService_ExitsWithZero()
    {
        using var process = ServiceProcess.Start([ProcessSettings.AnyPort], ProcessSettings.Complete(fixture.Tables));
        await process.WaitForLineAsync("Application started");

        ServiceProcess.Signal("TERM", process.Id);

        Assert.Equal(0, await process.WaitForExitAsync());
        Assert.Contains("Application is shutting down", process.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Sigterm_RequestInFlight_IsAnsweredBeforeExit()
    {
        var org = Guid.NewGuid();
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        var agent = await database.AddAgentAsync(org);
        using var process = ServiceProcess.Start([ProcessSettings.AnyPort], new(ProcessSettings.Complete(database)) { ["CalcomAccounts__RequestTimeoutSeconds"] = "20" });
        using var client = new HttpClient { BaseAddress = new(await process.WaitForUrlAsync()) };
        client.DefaultRequestHeaders.Authorization = new("Bearer", Tokens.OfOrganization(org));
        var account = new Uri(TestService.AccountPath(agent.ToString()), UriKind.Relative);
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync(account)).StatusCode);
        Task<HttpResponseMessage> inFlight;
        await using (await database.LockAsync("agents"))
        {
            inFlight = client.GetAsync(account);
            await Task.Delay(300);
            ServiceProcess.Signal("TERM", process.Id);
            await Task.Delay(700);
            Assert.False(inFlight.IsCompleted);
        }

        Assert.Equal(HttpStatusCode.OK, (await inFlight).StatusCode);
        Assert.Equal(0, await process.WaitForExitAsync());
    }
}
