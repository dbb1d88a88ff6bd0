using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure;
using Microsoft.Extensions.Configuration;

namespace CalcomAccounts.Tests.Processes;

/// <summary>docs/operations.md: the command <c>healthcheck</c>.</summary>
public sealed class HealthcheckTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Theory]
    [InlineData("ASPNETCORE_URLS", "http://127.0.0.1:{0}")]
    [InlineData("ASPNETCORE_URLS", "https://localhost:1;http://+:{0}")]
    [InlineData("Kestrel__Endpoints__Main__Url", "http://127.0.0.1:{0}")]
    [InlineData("ASPNETCORE_URLS", "http://0.0.0.0:{0}")]
    [InlineData("ASPNETCORE_URLS", "http://[::]:{0}")]
    [InlineData("ASPNETCORE_HTTP_PORTS", "{0};1")]
    public async Task Healthcheck_ConfiguredAddress_AsksTheServiceThere(string setting, string value)
    {
        var port = new Uri(fixture.Service.Url).Port;
        using var healthcheck = ServiceProcess.Start(
            ["healthcheck"], new() { [setting] = string.Format(CultureInfo.InvariantCulture, value, port), ["HTTP_PROXY"] = "http://127.0.0.1:1" });

        Assert.Equal((0, "", ""), (await healthcheck.WaitForExitAsync(), healthcheck.Output, healthcheck.Errors));
    }

    [Fact]
    public async Task Healthcheck_ServiceNotReadyOrStopped_Fails()
    {
        await using var service = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody");

        await ProcessRefusal.AssertAsync(["healthcheck", $"--urls={service.Url}"], [], $"{service.Url}/health/ready", "503");
        using var live = ServiceProcess.Start(["healthcheck", "live", $"--urls={service.Url}"]);
        Assert.Equal((0, ""), (await live.WaitForExitAsync(), live.Errors));
        await service.StopAsync();
        await ProcessRefusal.AssertAsync(["healthcheck", $"--urls={service.Url}"], [], service.Url, "refused");
    }

    [Fact]
    public async Task Healthcheck_ServiceDoesNotAnswer_FailsAfterTwoSeconds()
    {
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        var url = $"http://{silent.LocalEndpoint}";
        await ProcessRefusal.AssertAsync(["healthcheck", $"--urls={url}"], [], url);

        // The timeout is 2 seconds; measured without the start of a process, which takes long on a busy machine.
        var started = Stopwatch.GetTimestamp();
        await Assert.ThrowsAsync<StartupException>(
            () => Healthcheck.RunAsync(new ConfigurationBuilder().AddInMemoryCollection(new Dictionary<string, string?> { ["urls"] = url }).Build(), "ready"));
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 2, 4);
    }

    [Theory]
    [InlineData("http://unix:/tmp/not-there")]
    [InlineData("http://127.0.0.1:99999")]
    [InlineData("garbage")]
    public async Task Healthcheck_AddressWithoutPort_IsRejected(string url) =>
        await ProcessRefusal.AssertAsync(["healthcheck", $"--urls={url}"], [], url, "no address with a port");

    [Fact]
    public async Task Healthcheck_OnlyHttpsEndpoint_UsesTls()
    {
        var settings = ProcessSettings.Complete(fixture.Tables);
        settings["Kestrel__Endpoints__Https__Url"] = $"https://127.0.0.1:{PostgresServer.FreePort()}";
        settings["Kestrel__Endpoints__Https__Certificate__Path"] = await SelfSignedCertificate.WriteAsync(ProcessSettings.Secret);
        settings["Kestrel__Endpoints__Https__Certificate__Password"] = ProcessSettings.Secret;
        settings["ASPNETCORE_HTTP_PORTS"] = "1";
        using var process = ServiceProcess.Start([], settings);
        Assert.Equal(settings["Kestrel__Endpoints__Https__Url"], await process.WaitForUrlAsync());

        // A busy machine may need more than the two seconds of readiness for the first time.
        await Eventually.HoldsAsync(IsHealthyAsync, TimeSpan.FromSeconds(15));
        File.Delete(settings["Kestrel__Endpoints__Https__Certificate__Path"]);

        async Task<bool> IsHealthyAsync()
        {
            using var healthcheck = ServiceProcess.Start(["healthcheck"], settings);
            return (await healthcheck.WaitForExitAsync(), healthcheck.Output, healthcheck.Errors) is (0, "", "");
        }
    }
}
