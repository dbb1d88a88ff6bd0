using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using CalcomAccounts.Infrastructure;
using Microsoft.Extensions.DependencyInjection;
using OpenTelemetry.Metrics;
using OpenTelemetry.Trace;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/operations.md: telemetry settings, and a collector that does not answer.</summary>
public sealed class TelemetrySettingsTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Fact]
    public async Task TelemetryNotConfigured_RegistersNoProviders()
    {
        await using var service = await StartAsync([]);

        Assert.Null(service.Services.GetService<TracerProvider>());
        Assert.Null(service.Services.GetService<MeterProvider>());
    }

    [Theory]
    [InlineData("grpc", true)]
    [InlineData("http/protobuf", true)]
    [InlineData("grpc", false)]
    public async Task Shutdown_CollectorNeverAnswers_WaitsTwoSecondsForExport(string protocol, bool isAccepting)
    {
        // Connections beyond the backlog are neither accepted nor refused, like those to an unreachable machine.
        using var collector = new TcpListener(IPAddress.Loopback, 0);
        collector.Start(backlog: isAccepting ? 100 : 0);
        using var waiting = new TcpClient();
        await waiting.ConnectAsync((IPEndPoint)collector.LocalEndpoint);
        await using var service = await StartAsync(new()
        {
            ["OTEL_EXPORTER_OTLP_ENDPOINT"] = $"http://{collector.LocalEndpoint}",
            ["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol,
        });
        Assert.Equal(404, (await service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(Guid.NewGuid()))).Status);
        var started = Stopwatch.GetTimestamp();

        await service.StopAsync();
        await service.DisposeAsync();

        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 1.9, 4);
    }

    [Theory]
    [InlineData("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")]
    [InlineData("OTEL_EXPORTER_OTLP_ENDPOINT", "garbage")]
    [InlineData("OTEL_EXPORTER_PROMETHEUS_PORT", "0")]
    [InlineData("OTEL_EXPORTER_PROMETHEUS_PORT", "65536")]
    [InlineData("OTEL_EXPORTER_PROMETHEUS_PORT", "x")]
    [InlineData("OTEL_EXPORTER_PROMETHEUS_PORT", "taken")]
    public async Task InvalidTelemetrySetting_FailsStartupAndNamesTheSetting(string setting, string value)
    {
        var taken = new Uri(fixture.Service.Url).Port;
        var settings = new Dictionary<string, string?> { [setting] = value is "taken" ? $"{taken}" : value, ["OTEL_EXPORTER_PROMETHEUS_HOST"] = "127.0.0.1" };

        Assert.Contains(setting, (await Assert.ThrowsAsync<StartupException>(() => StartAsync(settings))).Message, StringComparison.Ordinal);
    }

    private Task<TestService> StartAsync(Dictionary<string, string?> settings) =>
        TestService.StartAsync(fixture.Tables.ServiceConnectionString, settings);
}
