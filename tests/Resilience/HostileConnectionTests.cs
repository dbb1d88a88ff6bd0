namespace CalcomAccounts.Tests.Resilience;

/// <summary>Thousands of connections without a token, on a service with limited memory.</summary>
[Collection(AfterAllOthers.Name)]
public sealed class HostileConnectionTests(HostileConnectionTests.Setup setup) : IClassFixture<HostileConnectionTests.Setup>
{
    // While thousands of connections are opened, answers take longer than afterwards.
    private static readonly TimeSpan s_opening = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_duration = TimeSpan.FromSeconds(2);

    // What each connection sends, piece by piece, with a pause after each.
    private static readonly Dictionary<string, string[]> s_attacks = new()
    {
        ["unfinished heads of 32 KB"] =
            ["GET / HTTP/1.1\r\nHost: x\r\n", .. Enumerable.Repeat($"Authorization: {new string('x', 1001)}\r\n", 31)],
        ["unfinished heads that grow"] = ["GET / HTTP/1.1\r\nHost: x\r\nX: ", .. Enumerable.Repeat(new string('x', 64 * 1024), 20)],
        ["pipelined assets"] = [HostileConnections.PipelinedAssets],
        ["pipelined unknown routes"] = [string.Concat(Enumerable.Repeat("GET /unknown HTTP/1.1\r\nHost: x\r\n\r\n", 200))],
        ["bodies that never end"] =
        [
            $"POST {TestService.AccountsPath} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            .. Enumerable.Repeat($"1000\r\n{new string('x', 4096)}\r\n", 100),
        ],
    };

    public static TheoryData<string> Attacks() => [.. s_attacks.Keys];

    [Theory]
    [MemberData(nameof(Attacks))]
    public async Task ThousandsOfHostileConnections_LeaveCallersAndProbesAnsweredWithinASecond(string attack)
    {
        await setup.Service.ResetAsync();
        using var connections = new HostileConnections(setup.Service.Url, HostileConnections.AlmostAll, s_attacks[attack], renew: true);
        await Task.Delay(s_opening);

        await setup.Service.AssertAnswersWithinASecondAsync(s_duration);
        setup.Service.AssertPeakMemoryWithinLimit();
        connections.ThrowIfFailed();
    }

    [Fact]
    public async Task ThousandsOfSilentAndIdleConnections_LeaveCallersAndProbesAnsweredWithinASecond()
    {
        await setup.Service.ResetAsync();
        using var silent = new HostileConnections(setup.Service.Url, HostileConnections.AlmostAll / 2, [], renew: false);
        using var idle = new HostileConnections(setup.Service.Url, HostileConnections.AlmostAll / 2, [HostileConnections.OneRequest], renew: false);
        await Task.WhenAll(silent.OpenedAsync(), idle.OpenedAsync());

        await setup.Service.AssertAnswersWithinASecondAsync(s_duration);
        setup.Service.AssertPeakMemoryWithinLimit();
    }

    public sealed class Setup(SharedServices services) : IAsyncLifetime
    {
        internal MemoryLimitedService Service { get; private set; } = null!;

        public async ValueTask InitializeAsync()
        {
            await services.StartOnceAsync();
            Service = await MemoryLimitedService.StartAsync(services.Tables);
        }

        public ValueTask DisposeAsync()
        {
            Service.Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
