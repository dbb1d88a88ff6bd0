using System.Buffers.Text;
using System.Diagnostics.Metrics;
using System.Text;
using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using CalcomAccounts.Api.Agents;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Api.Http;
using CalcomAccounts.Api.Observability;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using Microsoft.AspNetCore.Routing.Patterns;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Logging.Console;
using Microsoft.Extensions.Options;
using Microsoft.IdentityModel.JsonWebTokens;

namespace CalcomAccounts.Benchmarks;

/// <summary>What the parts of a request cost that are the service's own, by BenchmarkDotNet.</summary>
[MemoryDiagnoser]
public class MicroBenchmarks
{
    private static readonly string s_text = string.Join('.', new[]
    {
        """{"alg":"HS256","typ":"JWT"}""",
        """{"iss":"https://issuer.example","aud":"benchmark","sub":"somebody","org_id":"b0000000-0000-4000-8000-000000000001","exp":4102444800}""",
        "signature",
    }.Select(part => Base64Url.EncodeToString(Encoding.UTF8.GetBytes(part))));

    private static readonly CalcomAccount s_account = new(Guid.NewGuid(), "Front desk", HasApiKey: true, "https://api.cal.com", "active", DateTime.UtcNow);
    private static readonly Agent s_agent = new([s_account with { Status = "inactive" }, s_account], s_account.Id, s_account);
    private static readonly JsonWebToken s_token = new(s_text);
    private static readonly GetAgentCalcomAccountResponse s_response = GetAgentCalcomAccountResponse.Of(AccountResolver.Decide(s_agent));
    private static readonly KeySet s_keySet = TrustedIssuer.ReadAll(new ConfigurationBuilder().Build(), NullLogger.Instance)[0].KeySet;
    private static readonly CallerClaims s_claims = new(new CalcomAccountsOptions());
    private static readonly TokenCache s_cache = new(TimeProvider.System);
    private static readonly RequestLogging s_requestLogging = new(_ => Task.CompletedTask, CreateLogger());
    private static readonly RequestLogDetails s_details = new() { Decision = AccountResolver.Decide(s_agent) };
    private static readonly HttpContext s_request = CreateRequest();

    /// <summary>A token that is remembered while this is measured.</summary>
    [IterationSetup(Target = nameof(FindToken))]
    public void Remember() => s_cache.Add(s_text, s_keySet, CallerClaims.ToPrincipal(Caller.OfSubject("somebody")), DateTimeOffset.UtcNow.AddHours(1));

    /// <summary>Of a token that is remembered.</summary>
    [Benchmark]
    public object? FindToken() => s_cache.Find(s_text);

    /// <summary>From a token that has been validated.</summary>
    [Benchmark]
    public object? ReadClaims() => s_claims.ToPrincipal(s_token);

    /// <summary>Two keys and a linked account.</summary>
    [Benchmark]
    public object Decide() => AccountResolver.Decide(s_agent);

    /// <summary>The answer's body.</summary>
    [Benchmark]
    public byte[] WriteJson() => System.Text.Json.JsonSerializer.SerializeToUtf8Bytes(s_response, typeof(GetAgentCalcomAccountResponse), ResponseJson.Context);

    /// <summary>A request's line in JSON, until it waits in the buffer to be written.</summary>
    [Benchmark]
    public Task WriteLogLine() => s_requestLogging.InvokeAsync(s_request, s_details);

    private static ILogger<RequestLogging> CreateLogger()
    {
        var services = new ServiceCollection().AddLogging(logging => logging.AddJsonConsole()).AddMetrics().BuildServiceProvider();
        return LoggerFactory.Create(logging => logging.AddProvider(new ConsoleLog(
            services.GetServices<ConsoleFormatter>(),
            Options.Create(new ConsoleLoggerOptions { FormatterName = ConsoleFormatterNames.Json }),
            new ShutdownTimeouts(TimeSpan.FromSeconds(10)),
            services.GetRequiredService<IMeterFactory>(),
            Stream.Null))).CreateLogger<RequestLogging>();
    }

    private static DefaultHttpContext CreateRequest()
    {
        var request = new DefaultHttpContext { User = CallerClaims.ToPrincipal(Caller.OfSubject("somebody")) };
        request.Request.RouteValues["agent_id"] = $"{Guid.NewGuid()}";
        request.SetEndpoint(new RouteEndpoint(
            _ => Task.CompletedTask, RoutePatternFactory.Parse("api/v1/calcom/agents/{agent_id}/account"), order: 0, metadata: null, displayName: null));
        return request;
    }

    internal static void Run(bool once)
    {
        var artifacts = Directory.CreateTempSubdirectory("calcom-accounts-parts-");
        try
        {
            BenchmarkRunner.Run<MicroBenchmarks>(DefaultConfig.Instance
                .AddJob((once ? Job.Dry : Job.ShortRun).WithToolchain(InProcessEmitToolchain.Instance))
                .WithOptions(ConfigOptions.DisableLogFile)
                .WithArtifactsPath(artifacts.FullName));
        }
        finally
        {
            artifacts.Delete(recursive: true);
        }
    }
}
