using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using CalcomAccounts.Api;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using Microsoft.IdentityModel.JsonWebTokens;

namespace CalcomAccounts.Benchmark;

/// <summary>What the parts of a request cost that are the service's own, by BenchmarkDotNet.</summary>
[MemoryDiagnoser]
public class Parts
{
    private const string Token =
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoiYmVuY2htYXJrIiwic3ViIjoic29tZWJvZHkiLCJvcmdfaWQiOiJiMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDEiLCJleHAiOjQxMDI0NDQ4MDB9.c2lnbmF0dXJl";

    private static readonly CalcomAccount s_account = new(Guid.NewGuid(), "Front desk", HasApiKey: true, "https://api.cal.com", "active", DateTime.UtcNow);
    private static readonly Agent s_agent = new([s_account with { Status = "inactive" }, s_account], s_account);
    private static readonly JsonWebToken s_token = new(Token);
    private static readonly GetAgentCalcomAccountResponse s_response = GetAgentCalcomAccountResponse.Of(AccountResolver.Resolve(s_agent));
    private readonly TokenCache _cache = new(TimeProvider.System);

    /// <summary>A token that is remembered while this is measured.</summary>
    [IterationSetup(Target = nameof(FindToken))]
    public void Remember() => _cache.Add(Token, null, Caller.OfSubject("somebody"), DateTimeOffset.UtcNow.AddHours(1));

    /// <summary>Of a token that is remembered.</summary>
    [Benchmark]
    public object? FindToken() => _cache.Find(Token, null);

    /// <summary>From a token that has been validated.</summary>
    [Benchmark]
    public object? ReadClaims() => Authentication.ReadCaller(s_token, "org_id");

    /// <summary>Two keys and a linked account.</summary>
    [Benchmark]
    public object Resolve() => AccountResolver.Resolve(s_agent);

    /// <summary>The answer's body.</summary>
    [Benchmark]
    public byte[] WriteJson() => System.Text.Json.JsonSerializer.SerializeToUtf8Bytes(s_response, typeof(GetAgentCalcomAccountResponse), ResponseJson.Context);

    internal static void Run(bool once) => BenchmarkRunner.Run<Parts>(
        DefaultConfig.Instance.AddJob((once ? Job.Dry : Job.ShortRun).WithToolchain(InProcessEmitToolchain.Instance)).WithOptions(ConfigOptions.DisableLogFile)
            .WithArtifactsPath(Directory.CreateTempSubdirectory("calcom-accounts-parts-").FullName));
}
