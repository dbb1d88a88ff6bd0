using System.Text.RegularExpressions;
using Microsoft.Extensions.Configuration;

namespace CalcomAccounts.Tests.Processes;

/// <summary>docs/operations.md: commands, their options, and settings as arguments.</summary>
public sealed class CommandLineTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Theory]
    [InlineData("migrat", "'migrat'", "'migrate'", "'check'", "'healthcheck'")]
    [InlineData("--dry-run migrate", "--dry-run")]
    [InlineData("migrate --dry-run", "migrate", "--dry-run")]
    [InlineData("migrate check", "migrate", "check")]
    [InlineData("migrate -x=" + ProcessSettings.Secret, "migrate", "-x")]
    [InlineData("check --jsom", "check", "--jsom")]
    [InlineData("check --json=" + ProcessSettings.Secret, "check", "--json")]
    [InlineData("healthcheck liv", "healthcheck", "liv")]
    [InlineData("--port 5099", "--port")]
    [InlineData("--url=" + ProcessSettings.Secret, "--url")]
    [InlineData("--urls", "--urls")]
    [InlineData("-p=" + ProcessSettings.Secret, "-p")]
    [InlineData("Password=" + ProcessSettings.Secret, "'Password'")]
    [InlineData("--ConnectionStrings__CalcomAccounts=" + ProcessSettings.Secret, "--ConnectionStrings__CalcomAccounts")]
    [InlineData("postgres://owner:" + ProcessSettings.Secret + "@db/platform", "unknown command that is no single word")]
    [InlineData("-postgres://owner:" + ProcessSettings.Secret + "@db/platform", "unknown option that is no single word")]
    [InlineData("migrate owner:" + ProcessSettings.Secret, "migrate has no option that is no single word")]
    public async Task UnknownArgument_IsRejectedAndNamed(string arguments, params string[] named) =>
        await ProcessRefusal.AssertAsync(arguments.Split(' '), ProcessSettings.Complete(fixture.Tables), [.. named, "see --help"]);

    [Fact]
    public async Task SettingsBeforeCommand_AreApplied()
    {
        foreach (var setting in new[] { new[] { $"--ConnectionStrings:CalcomAccounts={fixture.Tables.ServiceConnectionString}" }, ["--ConnectionStrings:CalcomAccounts", fixture.Tables.ServiceConnectionString] })
        {
            using var check = ServiceProcess.Start([.. setting, "--environment=Staging", "check", "--json"]);

            Assert.Equal((0, ""), (await check.WaitForExitAsync(), check.Errors));
            Assert.Contains("\"ok\":true", check.Output, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("--help")]
    [InlineData("-h")]
    [InlineData("help")]
    [InlineData("migrate --help")]
    public async Task Help_ListsEveryCommandAndExits(string arguments)
    {
        using var help = ServiceProcess.Start(arguments.Split(' '), ProcessSettings.Complete(fixture.Tables));

        Assert.Equal((0, ""), (await help.WaitForExitAsync(), help.Errors));
        Assert.Equal(
            ["migrate", "check", "healthcheck"],
            help.Output.Split("Commands:\n")[1].Split("\n\n")[0].Split('\n').Select(line => line.Trim().Split(' ')[0]));
        Assert.All(help.Output.Split('\n'), line => Assert.InRange(line.Length, 0, 130));
    }

    [Fact]
    public async Task Version_IsTheLatestOfTheChangelog()
    {
        var changelog = await File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "CHANGELOG.md"));
        using var version = ServiceProcess.Start(["--version"]);

        Assert.Equal((0, ""), (await version.WaitForExitAsync(), version.Errors));
        Assert.Matches($@"^{Regex.Escape(Regex.Match(changelog, @"^## (\S+?),? ", RegexOptions.Multiline).Groups[1].Value)}(\+[0-9a-f]+)?$", version.Output);
    }

    [Fact]
    public async Task SettingsShownByHelp_AreEnoughToStart()
    {
        using var help = ServiceProcess.Start(["--help"]);
        await help.WaitForExitAsync();
        var settings = help.Output.Split('\n').Where(line => line.StartsWith("  --", StringComparison.Ordinal)).Select(line => line.Trim().Split('=', 2))
            .ToDictionary(setting => setting[0], setting => setting[1].Trim('"'));
        settings["--urls"] = settings["--urls"].Replace("localhost:5001", "127.0.0.1:0", StringComparison.Ordinal);
        settings["--ConnectionStrings:CalcomAccounts"] = fixture.Tables.ServiceConnectionString;

        // The authority of --help is an example, whose keys nobody can read.
        await using var authority = await TestAuthority.StartAsync();
        Assert.Contains("--Authentication:Schemes:Bearer:Authority", settings);
        settings["--Authentication:Schemes:Bearer:Authority"] = authority.Issuer;
        settings["--Authentication:Schemes:Bearer:RequireHttpsMetadata"] = "false";

        using var process = ServiceProcess.Start([.. settings.Select(setting => $"{setting.Key}={setting.Value}")]);

        await ServiceProcess.WaitUntilReadyAsync(await process.WaitForUrlAsync());
    }
}
