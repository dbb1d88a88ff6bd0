using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Diagnostics;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Database;

/// <summary>docs/database.md: PostgreSQL 14 or newer, in one line wherever it is older.</summary>
public sealed class ServerVersionTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string Fault = "; it has to be 14 or newer";

    [Theory]
    [InlineData("9.6.24", false)]
    [InlineData("13.23", false)]
    [InlineData("14.0", true)]
    [InlineData("15.18", true)]
    [InlineData("100.1", true)]
    public void Version_IsGoodEnough_From14On(string version, bool isGoodEnough) =>
        Assert.Equal(isGoodEnough ? null : $"PostgreSQL {version}{Fault}", ServerVersion.FindFault(Version.Parse(version)));

    [Fact]
    public async Task Migrate_OnAnOldServer_IsRefused_AndChangesNothing()
    {
        using var old = OldPostgres.Before(await fixture.Server.CreateDatabaseAsync(), "13", out var seen);

        var refusal = await Assert.ThrowsAsync<StartupException>(() => DatabaseMigrator.MigrateAsync(seen, CancellationToken.None));

        Assert.Matches($@"^could not migrate 127\.0\.0\.1:\d+, database \w+: PostgreSQL 13\.[^ ]+{Fault}$", refusal.Message);
        Assert.Contains((await DatabaseCheck.RunAsync(seen, isDistributed: false, CancellationToken.None)).Checks, check => check is { Name: "schema", Ok: false });
    }

    [Fact]
    public async Task Check_OnAnOldServer_SaysSo()
    {
        using var old = OldPostgres.Before(fixture.Tables.ServiceConnectionString, "13", out var seen);

        var report = await DatabaseCheck.RunAsync(seen, isDistributed: false, CancellationToken.None);

        Assert.EndsWith(Fault, Assert.Single(report.Checks, check => !check.Ok).Detail, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Serving_FromAnOldServer_IsRefusedAtStart_InOneLine()
    {
        using var old = OldPostgres.Before(fixture.Tables.ServiceConnectionString, "13", out var seen);
        using var process = ServiceProcess.Start(["--urls", "http://127.0.0.1:0"], new()
        {
            ["ConnectionStrings__CalcomAccounts"] = seen,
            ["Authentication__Schemes__Bearer__ValidIssuer"] = Tokens.Issuer,
            ["Authentication__Schemes__Bearer__ValidAudience"] = Tokens.Audience,
            ["Authentication__Schemes__Bearer__SigningKeys__0__Value"] = Convert.ToBase64String(Tokens.Key),
        });

        Assert.Equal(1, await process.WaitForExitAsync());
        Assert.Matches($@"^calcom-accounts: can't serve from 127\.0\.0\.1:\d+, database \w+: PostgreSQL 13\.[^ ]+{Fault}$", process.Errors);
        Assert.DoesNotContain("Now listening", process.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task OldServer_ThatAppearsAfterTheStart_IsNotReady_AndTheLogSaysWhy()
    {
        using var old = OldPostgres.Before(fixture.Tables.ServiceConnectionString, "13", out var seen);
        using var log = new CapturedLog(LogLevel.Error);
        await using var service = await TestService.StartAsync(seen, configure: builder => builder.Logging.AddProvider(log));

        Assert.Equal(503, (await service.SendAsync("GET", "/health/ready")).Status);
        Assert.Matches($"the database is PostgreSQL 13\\.[^ ]+{Fault}", await log.SingleLineAsync());
        Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
    }
}
