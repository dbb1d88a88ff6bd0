using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Microsoft.Extensions.Configuration;

namespace CalcomAccounts.Tests.Processes;

/// <summary>docs/operations.md: settings with which the program refuses to start, and its log.</summary>
public sealed class StartTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Theory]
    [InlineData(null)]
    [InlineData("Production")]
    [InlineData("Staging")]
    public async Task MissingSetting_OutsideDevelopment_IsNamed(string? environment)
    {
        var settings = ProcessSettings.Complete(fixture.Tables);
        settings.Remove("ConnectionStrings__CalcomAccounts");
        if (environment is not null)
        {
            settings["ASPNETCORE_ENVIRONMENT"] = environment;
        }

        await ProcessRefusal.AssertAsync([ProcessSettings.AnyPort], settings, "ConnectionStrings:CalcomAccounts");
    }

    [Fact]
    public async Task IncompleteSettings_InDevelopment_AreRejected() => await ProcessRefusal.AssertAsync(
        [ProcessSettings.AnyPort],
        new() { ["ASPNETCORE_ENVIRONMENT"] = "Development", ["ConnectionStrings__CalcomAccounts"] = "Host=localhost", [ProcessSettings.Bearer + "ValidIssuer"] = Tokens.Issuer },
        "Authentication:Schemes:Bearer:ValidAudience");

    [Theory]
    [InlineData("ConnectionStrings__CalcomAccounts", "Host=db;Passwort=" + ProcessSettings.Secret, "ConnectionStrings:CalcomAccounts")]
    [InlineData(ProcessSettings.Bearer + "SigningKeys__0__Value", ProcessSettings.Secret + "!", "Authentication:Schemes:Bearer:SigningKeys:0:Value")]
    [InlineData(ProcessSettings.Bearer + "RequireHttpsMetadata", "perhaps", "Authentication:Schemes:Bearer")]
    public async Task InvalidSetting_IsNamedWithoutItsValue(string setting, string value, string named)
    {
        var settings = ProcessSettings.Complete(fixture.Tables);
        settings[setting] = value;

        await ProcessRefusal.AssertAsync([ProcessSettings.AnyPort], settings, named);
    }

    [Fact]
    public async Task UnreadableCertificate_IsNamedWithoutItsPassword()
    {
        var file = await SelfSignedCertificate.WriteAsync("another");
        var settings = ProcessSettings.Complete(fixture.Tables);
        settings["Kestrel__Endpoints__Https__Url"] = "https://127.0.0.1:0";
        settings["Kestrel__Endpoints__Https__Certificate__Path"] = file;
        settings["Kestrel__Endpoints__Https__Certificate__Password"] = ProcessSettings.Secret;
        await ProcessRefusal.AssertAsync([], settings, "can't listen", "password", "see Kestrel:Endpoints");

        File.Delete(file);
        await ProcessRefusal.AssertAsync([], settings, "can't listen", "Kestrel:Endpoints:Https:Certificate:Path");
    }

    [Fact]
    public async Task MalformedSettingsFile_IsNamed()
    {
        var environment = $"E{Guid.NewGuid():N}";
        var file = Path.Combine(AppContext.BaseDirectory, $"appsettings.{environment}.json");
        await File.WriteAllTextAsync(file, $$"""{ "Password": "{{ProcessSettings.Secret}}", x }""");

        await ProcessRefusal.AssertAsync([$"--environment={environment}"], ProcessSettings.Complete(fixture.Tables), file, "LineNumber: 0");
        File.Delete(file);
    }

    [Fact]
    public async Task PortInUse_IsNamed()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var url = $"http://127.0.0.1:{((IPEndPoint)listener.LocalEndpoint).Port}";

        var settings = ProcessSettings.Complete(fixture.Tables);
        settings["Kestrel__Limits__MaxConcurrentConnections"] = "100";
        await ProcessRefusal.AssertAsync(["--urls", url], settings, url, "choose an address with --urls");
    }

    [Theory]
    [InlineData("garbage")]
    [InlineData("http://192.0.2.1:5000")]
    [InlineData("http://127.0.0.1:99999")]
    public async Task InvalidAddress_IsRejected(string url) =>
        await ProcessRefusal.AssertAsync(["--urls", url], ProcessSettings.Complete(fixture.Tables), "can't listen", "--urls");

    [Fact]
    public async Task DatabaseUnreachable_ServiceStarts()
    {
        var settings = ProcessSettings.Complete(fixture.Tables);
        settings["ConnectionStrings__CalcomAccounts"] = "Host=127.0.0.1;Port=1;Username=nobody";
        using var process = ServiceProcess.Start([ProcessSettings.AnyPort], settings);
        var url = await process.WaitForUrlAsync();
        using var client = new HttpClient();

        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync(new Uri($"{url}/health/live"))).StatusCode);
    }

    // The SDK ignores misspelt properties, so the result is checked.
    [Theory]
    [InlineData("System.GC.Server", false)]
    [InlineData("System.GC.Concurrent", null)] // Not switched off.
    public async Task RuntimeConfiguration_HasTheMeasuredSettings(string setting, bool? expected)
    {
        var configuration = JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(AppContext.BaseDirectory, "CalcomAccounts.Api.runtimeconfig.json")));

        Assert.Equal(expected, configuration!["runtimeOptions"]!["configProperties"]![setting]?.GetValue<bool>());
    }

    [Fact]
    public async Task EachRequest_IsLoggedAsOneLineOfJson()
    {
        var org = Guid.NewGuid();
        var agent = await fixture.Tables.AddAgentAsync(org);
        using var process = ServiceProcess.Start([ProcessSettings.AnyPort], ProcessSettings.Complete(fixture.Tables));
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

    // Npgsql validates the encoding only when it connects.
    [Fact]
    public async Task SettingRejectedByNpgsqlOnConnect_IsReportedAndServiceStarts()
    {
        var settings = ProcessSettings.Complete(fixture.Tables);
        settings["ConnectionStrings__CalcomAccounts"] += ";Encoding=unheard-of";

        await ProcessRefusal.AssertAsync(["migrate"], settings, "could not migrate", "unheard-of");
        using var check = ServiceProcess.Start(["check"], settings);
        Assert.Equal((1, ""), (await check.WaitForExitAsync(), check.Errors));
        Assert.Matches("FAIL +connection +.*unheard-of", check.Output);
        foreach (var environment in new[] { "Production", "Development" })
        {
            settings["ASPNETCORE_ENVIRONMENT"] = environment;
            using var process = ServiceProcess.Start([ProcessSettings.AnyPort], settings);
            using var client = new HttpClient { BaseAddress = new(await process.WaitForUrlAsync()) };

            Assert.Equal(HttpStatusCode.ServiceUnavailable, (await client.GetAsync(new Uri("/health/ready", UriKind.Relative))).StatusCode);
            await process.WaitForLineAsync("unheard-of");
            await process.WaitForLineAsync(environment is "Development" ? "OpenAPI page: " : "Application started");
            Assert.Equal(environment is "Development", Regex.IsMatch(process.Output, "The database does not answer lookups: .*unheard-of.*'check' says more"));
        }
    }
}
