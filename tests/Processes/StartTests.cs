using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Development;
using Microsoft.Extensions.Configuration;
using Npgsql;

namespace CalcomAccounts.Tests.Processes;

/// <summary>docs/operations.md: the program as a process, started and stopped as its users do it.</summary>
public sealed class StartTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string Bearer = "Authentication__Schemes__Bearer__";
    private const string Secret = "not-to-be-seen";
    private const string AnyPort = "--urls=http://127.0.0.1:0";

    private static readonly string s_signingKey = Convert.ToBase64String(Tokens.Key);

    private string Service => fixture.Tables.ServiceConnectionString;

    private Dictionary<string, string> Complete => new()
    {
        ["ConnectionStrings__CalcomAccounts"] = Service,
        [Bearer + "ValidIssuer"] = Tokens.Issuer,
        [Bearer + "ValidAudience"] = Tokens.Audience,
        [Bearer + "SigningKeys__0__Issuer"] = Tokens.Issuer,
        [Bearer + "SigningKeys__0__Value"] = s_signingKey,
    };

    [Theory]
    [InlineData(null)]
    [InlineData("Production")]
    [InlineData("Staging")]
    public async Task OutsideDevelopmentAMissingSettingIsNamed(string? environment)
    {
        var settings = Complete;
        settings.Remove("ConnectionStrings__CalcomAccounts");
        if (environment is not null)
        {
            settings["ASPNETCORE_ENVIRONMENT"] = environment;
        }

        await AssertRefusesAsync([AnyPort], settings, "ConnectionStrings:CalcomAccounts");
    }

    [Fact]
    public async Task DotnetRunIsNotDevelopmentWhereTheEnvironmentSaysOtherwise()
    {
        foreach (var variable in new[] { "ASPNETCORE_ENVIRONMENT", "DOTNET_ENVIRONMENT" })
        {
            using var process = ServiceProcess.DotnetRun([AnyPort], new() { [variable] = "Production" });

            Assert.NotEqual(0, await process.WaitForExitAsync());
            Assert.Contains("ConnectionStrings:CalcomAccounts", process.Errors, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task InDevelopmentHalfOfTheSettingsIsAsGoodAsNone() => await AssertRefusesAsync(
        [AnyPort],
        new() { ["ASPNETCORE_ENVIRONMENT"] = "Development", ["ConnectionStrings__CalcomAccounts"] = "Host=localhost", [Bearer + "ValidIssuer"] = Tokens.Issuer },
        "Authentication:Schemes:Bearer:ValidAudience");

    [Theory]
    [InlineData("ConnectionStrings__CalcomAccounts", "Host=db;Passwort=" + Secret, "ConnectionStrings:CalcomAccounts")]
    [InlineData(Bearer + "SigningKeys__0__Value", Secret + "!", "Authentication:Schemes:Bearer:SigningKeys:0:Value")]
    [InlineData(Bearer + "RequireHttpsMetadata", "perhaps", "Authentication:Schemes:Bearer")]
    public async Task ASettingThatMakesNoSenseIsNamedAndNotRepeated(string setting, string value, string named)
    {
        var settings = Complete;
        settings[setting] = value;

        await AssertRefusesAsync([AnyPort], settings, named);
    }

    [Fact]
    public async Task ACertificateThatCanNotBeReadIsNamed_AndItsPasswordIsNot()
    {
        var file = await WriteCertificateAsync("another");
        var settings = Complete;
        settings["Kestrel__Endpoints__Https__Url"] = "https://127.0.0.1:0";
        settings["Kestrel__Endpoints__Https__Certificate__Path"] = file;
        settings["Kestrel__Endpoints__Https__Certificate__Password"] = Secret;
        await AssertRefusesAsync([], settings, "can't listen", "password", "see Kestrel:Endpoints");

        File.Delete(file);
        await AssertRefusesAsync([], settings, "can't listen", "Kestrel:Endpoints:Https:Certificate:Path");
    }

    [Fact]
    public async Task ASettingsFileThatIsMalformedIsNamed()
    {
        var environment = $"E{Guid.NewGuid():N}";
        var file = Path.Combine(AppContext.BaseDirectory, $"appsettings.{environment}.json");
        await File.WriteAllTextAsync(file, $$"""{ "Password": "{{Secret}}", x }""");

        await AssertRefusesAsync([$"--environment={environment}"], Complete, file, "LineNumber: 0");
        File.Delete(file);
    }

    [Theory]
    [InlineData("migrat", "'migrat'", "'migrate'", "'check'", "'healthcheck'")]
    [InlineData("--dry-run migrate", "--dry-run")]
    [InlineData("migrate --dry-run", "migrate", "--dry-run")]
    [InlineData("migrate check", "migrate", "check")]
    [InlineData("migrate -x=" + Secret, "migrate", "-x")]
    [InlineData("check --jsom", "check", "--jsom")]
    [InlineData("check --json=" + Secret, "check", "--json")]
    [InlineData("healthcheck liv", "healthcheck", "liv")]
    [InlineData("--port 5099", "--port")]
    [InlineData("--url=" + Secret, "--url")]
    [InlineData("--urls", "--urls")]
    [InlineData("-p=" + Secret, "-p")]
    [InlineData("Password=" + Secret, "'Password'")]
    [InlineData("--ConnectionStrings__CalcomAccounts=" + Secret, "--ConnectionStrings__CalcomAccounts")]
    [InlineData("postgres://owner:" + Secret + "@db/platform", "unknown command that is no single word")]
    [InlineData("-postgres://owner:" + Secret + "@db/platform", "unknown option that is no single word")]
    [InlineData("migrate owner:" + Secret, "migrate has no option that is no single word")]
    public async Task AnArgumentThatWouldBeIgnoredIsRefused(string arguments, params string[] named) =>
        await AssertRefusesAsync(arguments.Split(' '), Complete, [.. named, "see --help"]);

    [Fact]
    public async Task SettingsMayStandBeforeTheirCommand()
    {
        foreach (var setting in new[] { new[] { $"--ConnectionStrings:CalcomAccounts={Service}" }, ["--ConnectionStrings:CalcomAccounts", Service] })
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
    public async Task HelpListsEveryCommand_AndDoesNothingElse(string arguments)
    {
        using var help = ServiceProcess.Start(arguments.Split(' '), Complete);

        Assert.Equal((0, ""), (await help.WaitForExitAsync(), help.Errors));
        Assert.Equal(
            ["migrate", "check", "healthcheck"],
            help.Output.Split("Commands:\n")[1].Split("\n\n")[0].Split('\n').Select(line => line.Trim().Split(' ')[0]));
        Assert.All(help.Output.Split('\n'), line => Assert.InRange(line.Length, 0, 130));
    }

    [Fact]
    public async Task VersionIsTheChangelogsFirst()
    {
        var changelog = await File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "CHANGELOG.md"));
        using var version = ServiceProcess.Start(["--version"]);

        Assert.Equal((0, ""), (await version.WaitForExitAsync(), version.Errors));
        Assert.Matches($@"^{Regex.Escape(Regex.Match(changelog, @"^## (\S+?),? ", RegexOptions.Multiline).Groups[1].Value)}(\+[0-9a-f]+)?$", version.Output);
    }

    [Fact]
    public async Task TheSettingsThatHelpShowsAreEnoughToServe()
    {
        using var help = ServiceProcess.Start(["--help"]);
        await help.WaitForExitAsync();
        var settings = help.Output.Split('\n').Where(line => line.StartsWith("  --", StringComparison.Ordinal)).Select(line => line.Trim().Split('=', 2))
            .ToDictionary(setting => setting[0], setting => setting[1].Trim('"'));
        settings["--urls"] = settings["--urls"].Replace("localhost:5001", "127.0.0.1:0", StringComparison.Ordinal);
        settings["--ConnectionStrings:CalcomAccounts"] = Service;

        using var process = ServiceProcess.Start([.. settings.Select(setting => $"{setting.Key}={setting.Value}")]);
        using var client = new HttpClient { BaseAddress = new(await process.WaitForUrlAsync()) };

        // Their authority is an example, whose keys nobody can read.
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync(new Uri("/health/live", UriKind.Relative))).StatusCode);
    }

    [Fact]
    public async Task ATakenPortIsNamed()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var url = $"http://127.0.0.1:{((IPEndPoint)listener.LocalEndpoint).Port}";

        var settings = Complete;
        settings["Kestrel__Limits__MaxConcurrentConnections"] = "100";
        await AssertRefusesAsync(["--urls", url], settings, url, "choose an address with --urls");
    }

    [Theory]
    [InlineData("garbage")]
    [InlineData("http://192.0.2.1:5000")]
    [InlineData("http://127.0.0.1:99999")]
    public async Task AnAddressThatCanNotBeListenedOnIsRefused(string url) =>
        await AssertRefusesAsync(["--urls", url], Complete, "can't listen", "--urls");

    [Fact]
    public async Task TheDatabaseMayBeAwayAtStart()
    {
        var settings = Complete;
        settings["ConnectionStrings__CalcomAccounts"] = "Host=127.0.0.1;Port=1;Username=nobody";
        using var process = ServiceProcess.Start([AnyPort], settings);
        var url = await process.WaitForUrlAsync();
        using var client = new HttpClient();

        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync(new Uri($"{url}/health/live"))).StatusCode);
    }

    [Fact]
    public async Task EachRequestIsOneLineOfJson()
    {
        var org = Guid.NewGuid();
        var agent = await fixture.Tables.AddAgentAsync(org);
        using var process = ServiceProcess.Start([AnyPort], Complete);
        using var client = new HttpClient { BaseAddress = new(await process.WaitForUrlAsync()) };

        foreach (var (id, token, status, outcome) in new[]
        {
            (agent.ToString(), Tokens.OfOrganization(org), 200, "none"), (agent.ToString(), Tokens.OfOrganization(Guid.NewGuid()), 404, "not_found"),
            (agent.ToString(), "x", 401, "unauthorized"), ("garbage", Tokens.OfOrganization(org), 400, "invalid_request"),
        })
        {
            var trace = Guid.NewGuid().ToString("N");
            using var request = new HttpRequestMessage(HttpMethod.Get, TestService.AccountPath(id) + "?org_id=not-to-be-seen");
            request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {token}");
            request.Headers.TryAddWithoutValidation("traceparent", $"00-{trace}-00f067aa0ba902b7-01");
            Assert.Equal(status, (int)(await client.SendAsync(request)).StatusCode);

            var line = JsonNode.Parse(await process.WaitForLineAsync(trace))!;
            Assert.Equal(["Timestamp", "EventId", "LogLevel", "Category", "Message", "State"], line.AsObject().Select(member => member.Key));
            Assert.Matches(@"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", line["Timestamp"]!.GetValue<string>());
            var state = line["State"]!;
            Assert.Equal("Information", line["LogLevel"]!.GetValue<string>());
            Assert.Equal(status, state["StatusCode"]!.GetValue<int>());
            Assert.Equal(outcome, state["Outcome"]!.GetValue<string>());
            Assert.Equal(id is "garbage" ? null : id, state["AgentId"]?.GetValue<string>());
            Assert.Equal("api/v1/calcom/agents/{agent_id}/account", state["Route"]!.GetValue<string>());
            Assert.InRange(state["Milliseconds"]!.GetValue<double>(), 0.1, 5000);
        }

        Assert.Equal(4, process.Output.Split('\n').Count(line => line.Contains("RequestLogging", StringComparison.Ordinal)));
        Assert.DoesNotContain("not-to-be-seen", process.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("garbage", process.Output, StringComparison.Ordinal);
    }

    // The SDK ignores a property that is misspelt.
    [Theory]
    [InlineData("System.GC.Server", true)]
    [InlineData("System.GC.Concurrent", false)]
    [InlineData("System.Runtime.TieredPGO", false)]
    public async Task TheRuntimeIsSetAsItWasMeasured(string setting, bool expected)
    {
        var configuration = JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(AppContext.BaseDirectory, "CalcomAccounts.Api.runtimeconfig.json")));

        Assert.Equal(expected, configuration!["runtimeOptions"]!["configProperties"]![setting]!.GetValue<bool>());
    }

    [Fact]
    public async Task MigrateBringsADatabaseToTheCurrentSchema_AndTwiceIsHarmless()
    {
        var settings = new Dictionary<string, string> { ["ConnectionStrings__CalcomAccounts"] = await fixture.Server.CreateDatabaseAsync() };

        foreach (var said in new[] { "applied 001_tables.sql, 002_reader_role.sql, 003_bounded_rows.sql", "already at the current schema" })
        {
            using var migrate = ServiceProcess.Start(["migrate"], settings);
            Assert.Equal((0, said, ""), (await migrate.WaitForExitAsync(), migrate.Output, migrate.Errors));
        }
    }

    [Fact]
    public async Task MigrateWithoutADatabaseSaysWhichSettingIsMissing() =>
        await AssertRefusesAsync(["migrate"], [], "ConnectionStrings:CalcomAccounts", "--help");

    [Fact]
    public async Task MigrateSaysWhichServerIsOutOfReach() => await AssertRefusesAsync(
        ["migrate"],
        new() { ["ConnectionStrings__CalcomAccounts"] = $"Host=127.0.0.1;Port=1;Database=platform;Username=owner;Password={Secret}" },
        "127.0.0.1:1, database platform");

    // Npgsql looks for the encoding no sooner than it is connected, and in vain.
    [Fact]
    public async Task WhatNpgsqlRefusesOnlyOnceConnectedIsSaidInOneLine_AndTheServiceComesUp()
    {
        var settings = Complete;
        settings["ConnectionStrings__CalcomAccounts"] += ";Encoding=unheard-of";

        await AssertRefusesAsync(["migrate"], settings, "could not migrate", "unheard-of");
        using var check = ServiceProcess.Start(["check"], settings);
        Assert.Equal((1, ""), (await check.WaitForExitAsync(), check.Errors));
        Assert.Matches("FAIL +connection +.*unheard-of", check.Output);
        foreach (var environment in new[] { "Production", "Development" })
        {
            settings["ASPNETCORE_ENVIRONMENT"] = environment;
            using var process = ServiceProcess.Start([AnyPort], settings);
            using var client = new HttpClient { BaseAddress = new(await process.WaitForUrlAsync()) };

            Assert.Equal(HttpStatusCode.ServiceUnavailable, (await client.GetAsync(new Uri("/health/ready", UriKind.Relative))).StatusCode);
            await process.WaitForLineAsync("unheard-of");
            await process.WaitForLineAsync(environment is "Development" ? "OpenAPI page: " : "Application started");
            Assert.Equal(environment is "Development", Regex.IsMatch(process.Output, "The database does not answer lookups: .*unheard-of.*'check' says more"));
        }
    }

    [Fact]
    public async Task MigrateByOneWhoMayNotSaysSo() => await AssertRefusesAsync(
        ["migrate"],
        new() { ["ConnectionStrings__CalcomAccounts"] = new NpgsqlConnectionStringBuilder(fixture.Tables.ServiceConnectionString) { Database = "postgres" }.ConnectionString },
        "permission denied", "Nothing was changed");

    [Theory]
    [InlineData("ASPNETCORE_URLS", "http://127.0.0.1:{0}")]
    [InlineData("ASPNETCORE_URLS", "https://localhost:1;http://+:{0}")]
    [InlineData("Kestrel__Endpoints__Main__Url", "http://127.0.0.1:{0}")]
    [InlineData("ASPNETCORE_URLS", "http://0.0.0.0:{0}")]
    [InlineData("ASPNETCORE_URLS", "http://[::]:{0}")]
    [InlineData("ASPNETCORE_HTTP_PORTS", "{0};1")]
    public async Task HealthcheckAsksTheServiceWhereItListens(string setting, string value)
    {
        var port = new Uri(fixture.Service.Url).Port;
        using var healthcheck = ServiceProcess.Start(
            ["healthcheck"], new() { [setting] = string.Format(CultureInfo.InvariantCulture, value, port), ["HTTP_PROXY"] = "http://127.0.0.1:1" });

        Assert.Equal((0, "", ""), (await healthcheck.WaitForExitAsync(), healthcheck.Output, healthcheck.Errors));
    }

    [Fact]
    public async Task HealthcheckFailsWhereTheServiceIsNotReady()
    {
        await using var service = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody");

        await AssertRefusesAsync(["healthcheck", $"--urls={service.Url}"], [], $"{service.Url}/health/ready", "503");
        using var live = ServiceProcess.Start(["healthcheck", "live", $"--urls={service.Url}"]);
        Assert.Equal((0, ""), (await live.WaitForExitAsync(), live.Errors));
        await service.StopAsync();
        await AssertRefusesAsync(["healthcheck", $"--urls={service.Url}"], [], service.Url, "refused");
    }

    [Fact]
    public async Task HealthcheckFailsWhereNothingIsAnswered()
    {
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        var url = $"http://{silent.LocalEndpoint}";
        await AssertRefusesAsync(["healthcheck", $"--urls={url}"], [], url);

        // Readiness has 2 seconds. Without the start of a process, which takes its time on a busy machine.
        var started = Stopwatch.GetTimestamp();
        await Assert.ThrowsAsync<StartupException>(
            () => Healthcheck.RunAsync(new ConfigurationBuilder().AddInMemoryCollection(new Dictionary<string, string?> { ["urls"] = url }).Build(), "ready"));
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 2, 4);
    }

    [Theory]
    [InlineData("http://unix:/tmp/not-there")]
    [InlineData("http://127.0.0.1:99999")]
    [InlineData("garbage")]
    public async Task HealthcheckSaysThatItNeedsAPort(string url) =>
        await AssertRefusesAsync(["healthcheck", $"--urls={url}"], [], url, "no address with a port");

    [Fact]
    public async Task HealthcheckAsksOverTlsWhereThereIsNothingElse()
    {
        var settings = Complete;
        settings["Kestrel__Endpoints__Https__Url"] = $"https://127.0.0.1:{PostgresServer.FreePort()}";
        settings["Kestrel__Endpoints__Https__Certificate__Path"] = await WriteCertificateAsync(Secret);
        settings["Kestrel__Endpoints__Https__Certificate__Password"] = Secret;
        settings["ASPNETCORE_HTTP_PORTS"] = "1";
        using var process = ServiceProcess.Start([], settings);
        Assert.Equal(settings["Kestrel__Endpoints__Https__Url"], await process.WaitForUrlAsync());

        using var healthcheck = ServiceProcess.Start(["healthcheck"], settings);

        Assert.Equal((0, "", ""), (await healthcheck.WaitForExitAsync(), healthcheck.Output, healthcheck.Errors));
        File.Delete(settings["Kestrel__Endpoints__Https__Certificate__Path"]);
    }

    [Fact]
    public async Task InDevelopmentTheRequestsThatAreOfferedFitTheConfiguredDatabase()
    {
        foreach (var (connectionString, offered) in new[]
        {
            (await SampleData.LoadAsync(await fixture.Server.CreateDatabaseAsync(), CancellationToken.None), "/agents/a0000000-0000-4000-8000-000000000001/account"),
            (fixture.Tables.ServiceConnectionString, "/agents/<agent_id>/account"),
            ("Host=127.0.0.1;Port=1;Username=nobody", "/agents/<agent_id>/account"),
        })
        {
            using var process = ServiceProcess.Start([AnyPort], new() { ["ASPNETCORE_ENVIRONMENT"] = "Development", ["ConnectionStrings__CalcomAccounts"] = connectionString });
            await process.WaitForLineAsync("OpenAPI page: ");

            Assert.Contains(offered, process.Output, StringComparison.Ordinal);
            Assert.Matches(@"(?m)^\d\d:\d\d:\d\d info: Microsoft\.Hosting\.Lifetime\[14\] Now listening on: ", process.Output);
        }
    }

    [Fact]
    public async Task DotnetRunServesEveryOutcome_AndCtrlCStopsItAndItsDatabase()
    {
        using var process = ServiceProcess.DotnetRun([AnyPort]);
        var page = await process.WaitForLineAsync("OpenAPI page: ");
        var database = new Database(await process.WaitForLineAsync("psql "));
        Assert.Matches("(?m)^Starting the service's own PostgreSQL:\n(  PostgreSQL .+ \\.{3}\n)(  .+ \\.{3}\n)(  schema and sample data \\.{3}\n)", process.Output);

        foreach (var outcome in new[] { "agent", "org_linked", "none" })
        {
            Assert.Contains($"\"type\":\"{outcome}\"", await PasteAsync(CurlLine(process, outcome)), StringComparison.Ordinal);
        }

        Assert.Contains("swagger", await PasteAsync($"curl --location {page.Split(' ')[^1]}"), StringComparison.Ordinal);

        // A terminal sends it to both.
        ServiceProcess.Signal("INT", Assert.Single(ServiceProcess.ChildrenOf(process.Id)));
        ServiceProcess.Signal("INT", process.Id);
        Assert.Equal(0, await process.WaitForExitAsync());
        Assert.True(database.IsGone);
        Assert.Equal("", process.Errors);
    }

    [Fact]
    public async Task ProgressIsSeenWhilePostgresStarts()
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
        await PasteAsync($"chmod -R 755 {folder}");

        using var process = ServiceProcess.Start(
            [AnyPort], new() { ["ASPNETCORE_ENVIRONMENT"] = "Development", ["PATH"] = $"{folder}:{Environment.GetEnvironmentVariable("PATH")}" });

        await process.WaitForLineAsync($"  PostgreSQL 99.1 from {folder}: initializing the data directory ...");
        await File.WriteAllTextAsync($"{folder}/enough", "");
        Assert.Equal(1, await process.WaitForExitAsync());
        Assert.Matches("^calcom-accounts: .+/initdb .+ failed: the disk is full$", process.Errors);
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    public async Task RunKilledWithItsChildren_LeavesNothingBehind_AndOneBesideItGoesOn()
    {
        using var other = ServiceProcess.DotnetRun([AnyPort]);
        using var killed = ServiceProcess.DotnetRun([AnyPort]);
        await Task.WhenAll(other.WaitForLineAsync("OpenAPI page: "), killed.WaitForLineAsync("OpenAPI page: "));
        var database = new Database(await killed.WaitForLineAsync("psql "));
        var service = Assert.Single(ServiceProcess.ChildrenOf(killed.Id));
        Assert.False(database.IsGone);

        killed.Kill(withAllItsChildren: true);
        await AssertEventuallyAsync(() => ServiceProcess.HasEnded(service) && database.IsGone);

        Assert.Contains("\"type\":\"agent\"", await PasteAsync(CurlLine(other, "agent")), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AKilledServiceTakesItsDatabaseWithIt(bool withAllItsChildren)
    {
        using var process = ServiceProcess.Start([AnyPort], new() { ["ASPNETCORE_ENVIRONMENT"] = "Development" });
        await process.WaitForLineAsync("OpenAPI page: ");
        var database = new Database(await process.WaitForLineAsync("psql "));
        Assert.False(database.IsGone);

        process.Kill(withAllItsChildren);

        await AssertEventuallyAsync(() => database.IsGone);
    }

    [Fact]
    public async Task SigtermStopsAServiceWithExitCodeZero()
    {
        using var process = ServiceProcess.Start([AnyPort], Complete);
        await process.WaitForLineAsync("Application started");

        ServiceProcess.Signal("TERM", process.Id);

        Assert.Equal(0, await process.WaitForExitAsync());
        Assert.Contains("Application is shutting down", process.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ARequestInFlightIsAnsweredBeforeItStops()
    {
        var org = Guid.NewGuid();
        var agent = await fixture.Tables.AddAgentAsync(org);
        using var process = ServiceProcess.Start([AnyPort], Complete);
        using var client = new HttpClient { BaseAddress = new(await process.WaitForUrlAsync()) };
        client.DefaultRequestHeaders.Authorization = new("Bearer", Tokens.OfOrganization(org));
        var account = new Uri(TestService.AccountPath(agent.ToString()), UriKind.Relative);
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync(account)).StatusCode);
        await using var locking = new NpgsqlConnection(fixture.Tables.OwnerConnectionString);
        await locking.OpenAsync();
        await using var transaction = await locking.BeginTransactionAsync();
        await using (var command = new NpgsqlCommand("lock table calcom.agents", locking, transaction))
        {
            await command.ExecuteNonQueryAsync();
        }

        var inFlight = client.GetAsync(account);
        await Task.Delay(300);
        ServiceProcess.Signal("TERM", process.Id);
        await Task.Delay(700);
        Assert.False(inFlight.IsCompleted);
        await transaction.RollbackAsync();

        Assert.Equal(HttpStatusCode.OK, (await inFlight).StatusCode);
        Assert.Equal(0, await process.WaitForExitAsync());
    }

    private static async Task AssertRefusesAsync(string[] arguments, Dictionary<string, string> environment, params string[] named)
    {
        using var process = ServiceProcess.Start(arguments, environment);

        Assert.NotEqual(0, await process.WaitForExitAsync());
        Assert.Single(process.Errors.Split('\n'));
        Assert.Equal("", process.Output);
        Assert.All(named, name => Assert.Contains(name, process.Errors, StringComparison.Ordinal));
        Assert.DoesNotContain(Secret, process.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain(s_signingKey, process.Errors, StringComparison.Ordinal);
    }

    private static async Task<string> WriteCertificateAsync(string password)
    {
        var file = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid()}.pfx");
        using var key = ECDsa.Create();
        using var certificate = new CertificateRequest("CN=localhost", key, HashAlgorithmName.SHA256).CreateSelfSigned(DateTimeOffset.UtcNow, DateTimeOffset.UtcNow.AddDays(1));
        await File.WriteAllBytesAsync(file, certificate.Export(X509ContentType.Pkcs12, password));
        return file;
    }

    private static string CurlLine(ServiceProcess process, string outcome) =>
        process.Output.Split('\n').SkipWhile(line => line != $"# {outcome}").ElementAt(1);

    private static async Task<string> PasteAsync(string commandLine)
    {
        using var shell = Process.Start(
            new ProcessStartInfo("sh", ["-c", commandLine]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        var output = shell.StandardOutput.ReadToEndAsync();
        await shell.StandardError.ReadToEndAsync();
        return await output;
    }

    private static Task AssertEventuallyAsync(Func<bool> condition) =>
        Eventually.HoldsAsync(() => Task.FromResult(condition()), TimeSpan.FromSeconds(10));

    /// <summary>The database that a service started for itself, as it announces it: a server on a socket, or a container.</summary>
    private sealed class Database
    {
        private readonly string? _data;
        private readonly int? _postmaster;
        private readonly string? _container;

        public Database(string psqlLine)
        {
            if (psqlLine.Contains("docker exec", StringComparison.Ordinal))
            {
                _container = psqlLine.Split("--tty ")[1].Split(' ')[0];
                return;
            }

            _data = psqlLine.Split("host=")[1].Split(' ')[0];
            _postmaster = int.Parse(File.ReadLines($"{_data}/postmaster.pid").First(), CultureInfo.InvariantCulture);
        }

        public bool IsGone => _postmaster is { } postmaster
            ? ServiceProcess.HasEnded(postmaster) && !Directory.Exists(_data)
            : PasteAsync($"docker ps --all --quiet --filter name={_container}").Result is "";
    }
}
