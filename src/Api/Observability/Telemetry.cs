using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure;
using Npgsql;
using OpenTelemetry;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;

namespace CalcomAccounts.Api.Observability;

/// <summary>OpenTelemetry: traces and metrics by OTLP, metrics for Prometheus. Without the settings for them, nothing.</summary>
internal static class Telemetry
{
    // OpenTelemetry's own names; its exporter reads the first and all others that begin like it.
    private const string OtlpEndpointKey = "OTEL_EXPORTER_OTLP_ENDPOINT";
    private const string PrometheusPortKey = "OTEL_EXPORTER_PROMETHEUS_PORT";
    private const string PrometheusHostKey = "OTEL_EXPORTER_PROMETHEUS_HOST";
    private const string ServiceNameKey = "OTEL_SERVICE_NAME";

    private static readonly string[] s_meters =
    [
        ResolutionMetrics.MeterName, "Microsoft.AspNetCore.Hosting", "Microsoft.AspNetCore.Server.Kestrel", "Npgsql", "System.Runtime",
    ];

    // What a caller may write anything into.
    private static readonly string[] s_sensitiveTags =
        ["url.query", "user_agent.original", "http.request.method_original", "server.address", "server.port", "client.address"];

    /// <exception cref="StartupException">A setting makes no sense.</exception>
    public static void AddTelemetry(this WebApplicationBuilder builder, CalcomAccountsOptions options)
    {
        var sendsOtlp = ReadOtlpEndpoint(builder.Configuration);
        var prometheusUrl = ReadPrometheusUrl(builder.Configuration);
        if (sendsOtlp || prometheusUrl is not null)
        {
            AddExporters(builder, options, sendsOtlp, prometheusUrl);
        }
    }

    /// <summary>Says on the request's span how it ended and why, and takes off it what its caller chose, but for an agent's UUID.</summary>
    public static void Describe(Activity span, string? route, string? agentId, string outcome, Decision? decision)
    {
        foreach (var tag in s_sensitiveTags)
        {
            span.SetTag(tag, null);
        }

        span.TraceStateString = null;
        span.SetTag("url.path", $"/{route?.Replace("{agent_id}", agentId ?? "{agent_id}", StringComparison.Ordinal)}");
        span.SetTag("calcom.account.outcome", outcome);
        foreach (var candidate in decision?.Candidates ?? [])
        {
            span.AddEvent(new("calcom.account.candidate", tags: new()
            {
                ["calcom.account.type"] = WireNames.Of(candidate.Type),
                ["calcom.account.reason"] = WireNames.Of(candidate.Reason),
            }));
        }
    }

    // Asked before the path has lost its base.
    private static bool IsHealth(PathString path, string pathBase) =>
        path.StartsWithSegments("/health") || path.StartsWithSegments($"{pathBase}/health");

    private static void AddExporters(WebApplicationBuilder builder, CalcomAccountsOptions options, bool sendsOtlp, string? prometheusUrl)
    {
        builder.Services.AddHostedService<BoundedFlush>();
        var telemetry = builder.Services.AddOpenTelemetry()
            .ConfigureResource(resource => resource.AddService(
                builder.Configuration[ServiceNameKey] is { Length: > 0 } name ? name : "calcom-accounts", serviceVersion: ServiceHost.Version))
            .WithMetrics(metrics => metrics.AddMeter(s_meters));
        if (sendsOtlp)
        {
            telemetry.WithMetrics(metrics => metrics.AddOtlpExporter());
            telemetry.WithTracing(traces => traces
                .AddAspNetCoreInstrumentation(requests => requests.Filter = context => !IsHealth(context.Request.Path, options.PathBase))
                .AddSource(InfrastructureServices.ActivitySourceName)
                .AddNpgsql()
                .AddProcessor<FailedStatementFilter>()
                .AddOtlpExporter());
        }

        if (prometheusUrl is not null)
        {
            telemetry.WithMetrics(metrics => metrics.AddPrometheusExporter());
            builder.Services.AddHostedService(services => new PrometheusEndpoint(services.GetRequiredService<MeterProvider>(), prometheusUrl));
        }
    }

    private static bool ReadOtlpEndpoint(ConfigurationManager configuration) =>
        configuration[OtlpEndpointKey] is { Length: > 0 } text
        && (Uri.TryCreate(text, UriKind.Absolute, out var url) && url.Scheme is "http" or "https"
            ? true
            : throw new StartupException($"{OtlpEndpointKey} has to be a URL, such as http://collector:4317"));

    private static string? ReadPrometheusUrl(ConfigurationManager configuration) =>
        configuration[PrometheusPortKey] is not { Length: > 0 } text ? null
        : ushort.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var port) && port > 0
            ? $"http://{(configuration[PrometheusHostKey] is { Length: > 0 } host ? host : "localhost")}:{port}"
            : throw new StartupException($"{PrometheusPortKey} has to be a port, such as 9464");

    /// <summary>Sends what is left when all requests are answered, but waits no longer for who takes it than a stop allows.</summary>
    private sealed class BoundedFlush(IServiceProvider services, ShutdownTimeouts timeouts) : IHostedLifecycleService
    {
        public Task StoppedAsync(CancellationToken cancellationToken)
        {
            var milliseconds = (int)timeouts.Telemetry.TotalMilliseconds;

            // Each blocks its thread; one after the other they would take twice the time.
            return Task.WhenAll(
                RunAsync(() => services.GetService<TracerProvider>()?.Shutdown(milliseconds)),
                RunAsync(() => services.GetService<MeterProvider>()?.Shutdown(milliseconds)));
        }

        public Task StartingAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StartedAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StoppingAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        private static Task RunAsync(Action shutDown) =>
            Task.Factory.StartNew(shutDown, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    /// <summary>
    /// Keeps Npgsql's span of a failed statement from being sent: its event 'exception' has the database's whole message, which may quote
    /// a row, and can't be taken off. The span of the lookup tells of the failure.
    /// </summary>
    private sealed class FailedStatementFilter : BaseProcessor<Activity>
    {
        public override void OnEnd(Activity data)
        {
            if (data.Source.Name is "Npgsql" && data.Status is ActivityStatusCode.Error)
            {
                data.ActivityTraceFlags &= ~ActivityTraceFlags.Recorded;
            }
        }
    }

    /// <summary>The metrics at <c>/metrics</c> on a port of their own, which needs no token and should not be reachable by callers.</summary>
    private sealed class PrometheusEndpoint(MeterProvider metrics, string url) : IHostedService, IAsyncDisposable
    {
        private readonly WebApplication _app = Build(metrics, url);

        public async Task StartAsync(CancellationToken cancellationToken)
        {
            try
            {
                await _app.StartAsync(cancellationToken);
            }
            catch (Exception exception) when (exception is IOException or SocketException or FormatException or InvalidOperationException)
            {
                throw new StartupException($"can't listen for Prometheus: {exception.Message.TrimEnd('.')}; see {PrometheusHostKey} and {PrometheusPortKey}", exception);
            }
        }

        public Task StopAsync(CancellationToken cancellationToken) => _app.StopAsync(cancellationToken);

        public ValueTask DisposeAsync() => _app.DisposeAsync();

        private static WebApplication Build(MeterProvider metrics, string url)
        {
            var builder = WebApplication.CreateEmptyBuilder(new());
            builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel => kestrel.AddServerHeader = false);
            var app = builder.Build();
            app.Urls.Add(url);
            app.UseOpenTelemetryPrometheusScrapingEndpoint(metrics, predicate: null, path: "/metrics", configureBranchedPipeline: null, optionsName: null);
            return app;
        }
    }
}
