using System.Text.Json;

namespace CalcomAccounts.Benchmarks;

/// <summary>What one tenant's lists leave to another tenant's single lookups: their rate and latency alone, and beside the lists.</summary>
internal static class Bulk
{
    private const int OthersConnections = 16;

    private static readonly (int Connections, int Length)[] s_attacks = [(64, 100), (300, 16)];

    /// <returns>How many single lookups were not answered.</returns>
    public static async Task<long> RunAsync(string folder, string service, Rounds rounds, string serviceEnvironment)
    {
        await using var issuer = await Issuer.StartAsync();
        await using var database = await BenchmarkDatabase.StartAsync(agents: 100_000);
        await using var running = await RunningTarget.StartAsync(new("service", service, "", serviceEnvironment), database, issuer, "HS256");
        var tenants = database.Sample.GroupBy(sample => sample.OrgId).Take(2).Select(tenant => tenant.ToList()).ToList();
        var singles = Path.Combine(folder, "singles");
        var singleToken = issuer.Sign("HS256", tenants[0][0].OrgId, number: 0);
        await File.WriteAllLinesAsync(singles, tenants[0].Select(sample => $"{PathOf(sample)} {singleToken}"));
        await Comparison.LoadAsync(running, singles, OthersConnections, rounds.WarmUp);

        Console.WriteLine($"another tenant's single lookups from {OthersConnections} connections, medians of {rounds.Count} rounds of {rounds.Seconds} s");
        Console.WriteLine($"{"",-44}{"requests/s",12}{"p99 ms",12}{"errors",12}");
        var errors = 0.0;
        foreach (var attack in s_attacks)
        {
            var lists = Path.Combine(folder, $"lists-of-{attack.Length}");
            var listToken = issuer.Sign("HS256", tenants[1][0].OrgId, number: 0);
            await File.WriteAllLinesAsync(lists, Enumerable.Range(0, 50).Select(list =>
                $"/api/v1/calcom/agents/accounts {listToken} {JsonSerializer.Serialize(new { agent_ids = Enumerable.Range(0, attack.Length).Select(i => tenants[1][((list * attack.Length) + i) % tenants[1].Count].AgentId) })}"));
            List<double[]> alone = [], beside = [];
            for (var round = 0; round < rounds.Count; round++)
            {
                alone.Add(await MeasureAsync(running, singles, rounds.Seconds));
                var attacking = Comparison.LoadAsync(running, lists, attack.Connections, rounds.Seconds + 2);
                await Task.Delay(TimeSpan.FromSeconds(1));
                beside.Add(await MeasureAsync(running, singles, rounds.Seconds));
                await attacking;
            }

            errors += Print("alone", alone) + Print($"beside lists of {attack.Length} from {attack.Connections} connections", beside);
        }

        return (long)errors;

        static string PathOf(Sample sample) => $"/api/v1/calcom/agents/{sample.AgentId}/account";
    }

    private static async Task<double[]> MeasureAsync(RunningTarget service, string requests, int seconds)
    {
        var load = await Comparison.LoadAsync(service, requests, OthersConnections, seconds);
        return [load.Requests / (load.Microseconds / 1e6), load.P99 / 1000.0, load.Errors];
    }

    private static double Print(string title, List<double[]> rounds)
    {
        Console.WriteLine($"{title,-44}{string.Concat(Enumerable.Range(0, 3).Select(column => $"{Comparison.Median(rounds.Select(round => round[column])),12:0.##}"))}");
        return rounds.Sum(round => round[^1]);
    }
}
