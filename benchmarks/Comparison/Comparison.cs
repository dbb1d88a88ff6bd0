using System.Diagnostics;
using System.Globalization;
using Npgsql;

namespace CalcomAccounts.Benchmarks;

/// <summary>What is asked, of how many agents, with how many different tokens, by how many connections at once.</summary>
internal sealed record Scenario(string Algorithm, int Agents, int Tokens, int Connections);

/// <summary>How often and how long, in seconds, each scenario is measured, and how often a start.</summary>
internal sealed record Rounds(int Count, int Seconds, int WarmUp, int Starts);

/// <summary>The baseline, the service and its rival, measured in turn.</summary>
internal static class Comparison
{
    // Of the targets.
    private const int Service = 1;

    private static readonly string[] s_columns =
        ["requests/s", "server CPU µs", "database CPU µs", "p50 ms", "p99 ms", "memory MiB", "sessions", "errors"];

    /// <returns>How many answers were wrong.</returns>
    public static async Task<long> RunAsync(
        string folder, string service, Scenario[] scenarios, Rounds rounds, string baselinePool, string serviceEnvironment, string serviceConnection)
    {
        Target[] targets =
        [
            new("baseline", await PublishAsync(folder, "benchmarks/Baseline", "CalcomAccounts.Baseline"), $"Maximum Pool Size={baselinePool}", ""),
            new("service", service, serviceConnection, serviceEnvironment),
            new("bun", await InstallBunAsync(folder), "", ""),
        ];
        await using var issuer = await Issuer.StartAsync();
        var errors = 0L;
        foreach (var agents in scenarios.GroupBy(scenario => scenario.Agents))
        {
            await using var database = await BenchmarkDatabase.StartAsync(agents.Key);
            Console.WriteLine($"{agents.Key} agents, {database.Description}, {Environment.ProcessorCount} processors, medians of {rounds.Count} rounds of {rounds.Seconds} s");
            foreach (var tokens in agents.GroupBy(scenario => (scenario.Algorithm, scenario.Tokens)))
            {
                errors += await RunAsync([.. tokens], targets, database, issuer, rounds, folder);
            }

            await MeasureStartsAsync(targets, database, issuer, agents.First().Algorithm, rounds.Starts);
        }

        return errors;
    }

    /// <returns>How many answers were wrong.</returns>
    private static async Task<long> RunAsync(
        Scenario[] scenarios, Target[] targets, BenchmarkDatabase database, Issuer issuer, Rounds rounds, string folder)
    {
        var algorithm = scenarios[0].Algorithm;
        var requests = Path.Combine(folder, "requests");
        await File.WriteAllLinesAsync(requests, Enumerable.Range(0, scenarios[0].Tokens).AsParallel().AsOrdered().Select(number =>
        {
            var sample = database.Sample[number % database.Sample.Count];
            return $"/api/v1/calcom/agents/{sample.AgentId}/account {issuer.Sign(algorithm, sample.OrgId, number)}";
        }));

        var running = new List<RunningTarget>();
        try
        {
            foreach (var target in targets)
            {
                running.Add(await RunningTarget.StartAsync(target, database, issuer, algorithm));
                await running[^1].CheckAnswersAsync(database, issuer, algorithm);
                await LoadAsync(running[^1], requests, connections: 64, rounds.WarmUp);
            }

            var errors = 0L;
            foreach (var scenario in scenarios)
            {
                var results = targets.Select(_ => new List<double[]>()).ToList();
                for (var round = 0; round < rounds.Count; round++)
                {
                    // In another order each round, so that none has the quieter part.
                    foreach (var i in Enumerable.Range(0, targets.Length).Select(i => (i + round) % targets.Length))
                    {
                        results[i].Add(await MeasureAsync(running[i], database, requests, scenario.Connections, rounds.Seconds));
                    }
                }

                Print($"{algorithm}, {scenario.Agents} agents, {scenario.Tokens} tokens, {scenario.Connections} connections", targets, results);
                errors += results.Sum(measured => (long)measured.Sum(figures => figures[^1]));
            }

            foreach (var target in running)
            {
                await target.CheckAnswersAsync(database, issuer, algorithm);
            }

            return errors;
        }
        finally
        {
            foreach (var target in running)
            {
                await target.DisposeAsync();
            }
        }
    }

    private static async Task<double[]> MeasureAsync(
        RunningTarget target, BenchmarkDatabase database, string requests, int connections, int seconds)
    {
        var (serverBefore, databaseBefore) = (target.CpuMicroseconds(), database.CpuMicroseconds());
        var load = await LoadAsync(target, requests, connections, seconds);
        var (server, postgres) = (target.CpuMicroseconds() - serverBefore, database.CpuMicroseconds() - databaseBefore);
        return
        [
            load.Requests / (load.Microseconds / 1e6), server / load.Requests, postgres / load.Requests, load.P50 / 1000.0, load.P99 / 1000.0,
            target.ResidentMiB(), await database.CountSessionsAsync(target.Name), load.Errors,
        ];
    }

    internal static async Task<(double Requests, double Microseconds, double P50, double P99, double Errors)> LoadAsync(
        RunningTarget target, string requests, int connections, int seconds)
    {
        var output = await Shell.CommandAsync(
            "wrk", "--threads", "1", "--connections", $"{connections}", "--duration", $"{seconds}s", "--timeout", "10s",
            "--script", Path.Combine(AppContext.BaseDirectory, "wrk.lua"), target.Url, "--", requests);
        var fields = output.Split('\n').Single(line => line.StartsWith("RESULT", StringComparison.Ordinal)).Split(' ')[1..]
            .Select(field => double.Parse(field, CultureInfo.InvariantCulture)).ToArray();
        return (fields[0], fields[1], fields[2], fields[3], fields[4]);
    }

    private static void Print(string title, Target[] targets, List<List<double[]>> results)
    {
        Console.WriteLine();
        var others = Enumerable.Range(0, targets.Length).Where(i => i != Service).ToList();
        Console.WriteLine($"{title,-56}{string.Concat(targets.Select(target => $"{target.Name,12}"))}{string.Concat(others.Select(i => $"{"x " + targets[i].Name,12}"))}");
        for (var column = 0; column < s_columns.Length; column++)
        {
            var medians = results.Select(measured => Median(measured.Select(figures => figures[column]))).ToList();
            var ratios = others.Select(i => Median(results[Service].Zip(results[i], (figures, other) => figures[column] / other[column])));
            Console.WriteLine($"  {s_columns[column],-54}{string.Concat(medians.Select(median => $"{median,12:0.##}"))}{string.Concat(ratios.Select(ratio => $"{ratio,12:0.00}"))}");
        }
    }

    private static async Task MeasureStartsAsync(Target[] targets, BenchmarkDatabase database, Issuer issuer, string algorithm, int starts)
    {
        var milliseconds = targets.Select(_ => new List<double>()).ToList();
        for (var start = 0; start < starts; start++)
        {
            for (var i = 0; i < targets.Length; i++)
            {
                var started = Stopwatch.GetTimestamp();
                await using var target = await RunningTarget.StartAsync(targets[i], database, issuer, algorithm);
                milliseconds[i].Add(Stopwatch.GetElapsedTime(started).TotalMilliseconds);
            }
        }

        if (starts > 0)
        {
            Console.WriteLine();
            Console.WriteLine($"  {"process start to first 200, ms",-54}{string.Concat(milliseconds.Select(times => $"{Median(times),12:0}"))}{Median(milliseconds[Service]) / Median(milliseconds[0]),12:0.00}");
        }
    }

    internal static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    internal static async Task<string> PublishAsync(string folder, string project, string program)
    {
        await Shell.CommandAsync("dotnet", "publish", project, "--configuration", "Release", "--output", Path.Combine(folder, program), "--verbosity", "quiet");
        return Path.Combine(folder, program, program);
    }

    private static async Task<string> InstallBunAsync(string folder)
    {
        var project = Path.Combine(folder, "bun");
        await Shell.CommandAsync("cp", "-r", "benchmarks/Bun", project);
        await Shell.CommandAsync("npm", "ci", "--prefix", project, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error");

        // The package's own program only chooses among these, one for each platform.
        return $"{Path.Combine(Directory.GetDirectories(Path.Combine(project, "node_modules/@oven")).Order().First(), "bin/bun")} {Path.Combine(project, "server.ts")}";
    }
}

/// <summary>A program to measure.</summary>
/// <param name="Name">In the tables, and of its sessions of the database.</param>
/// <param name="Command">Of the shell.</param>
/// <param name="ConnectionSettings">Added to the connection string.</param>
/// <param name="Environment">Further variables, as in a shell.</param>
internal sealed record Target(string Name, string Command, string ConnectionSettings, string Environment);

/// <summary>One that runs.</summary>
internal sealed class RunningTarget : IAsyncDisposable
{
    private static readonly HttpClient s_client = new() { Timeout = TimeSpan.FromSeconds(10) };
    private readonly Process _process;

    private RunningTarget(Process process, string name, string url) => (_process, Name, Url) = (process, name, url);

    public string Name { get; }

    public string Url { get; }

    /// <returns>It, once it has answered 200.</returns>
    public static async Task<RunningTarget> StartAsync(Target target, BenchmarkDatabase database, Issuer issuer, string algorithm)
    {
        var url = $"http://127.0.0.1:{Shell.FreePort()}";
        var start = new ProcessStartInfo("/bin/sh", ["-c", $"exec env {target.Environment} {target.Command} --urls {url} >/dev/null"]);
        start.Environment["ConnectionStrings__CalcomAccounts"] = $"{database.ConnectionString};Application Name={target.Name};{target.ConnectionSettings}";
        var connection = new NpgsqlConnectionStringBuilder(database.ConnectionString);
        start.Environment["PGHOST"] = connection.Host;
        start.Environment["PGPORT"] = $"{connection.Port}";
        start.Environment["PGUSER"] = connection.Username;
        start.Environment["PGPASSWORD"] = connection.Password;
        start.Environment["PGDATABASE"] = connection.Database;
        foreach (var (key, value) in issuer.Settings(algorithm))
        {
            start.Environment[$"Authentication__Schemes__Bearer__{key}"] = value;
        }

        var running = new RunningTarget(Process.Start(start)!, target.Name, url);
        var deadline = Stopwatch.StartNew();
        var sample = database.Sample[0];
        var token = issuer.Sign(algorithm, sample.OrgId, number: 0);
        while (true)
        {
            try
            {
                await running.AskAsync(sample, token);
                return running;
            }
            catch (HttpRequestException) when (deadline.Elapsed < TimeSpan.FromSeconds(20) && !running._process.HasExited)
            {
                await Task.Delay(2);
            }
        }
    }

    /// <exception cref="InvalidOperationException">An answer was not the one that the agent's rows mean.</exception>
    public async Task CheckAnswersAsync(BenchmarkDatabase database, Issuer issuer, string algorithm)
    {
        foreach (var sample in database.Sample.Take(100))
        {
            var body = await AskAsync(sample, issuer.Sign(algorithm, sample.OrgId, number: 0));
            if (!body.Contains(sample.Expected, StringComparison.Ordinal))
            {
                throw new InvalidOperationException($"{Name} answered {body}, not {sample.Expected}");
            }
        }
    }

    public double CpuMicroseconds() => Shell.CpuMicroseconds(_process.Id);

    public double ResidentMiB() => Shell.ResidentMiB(_process.Id);

    public async ValueTask DisposeAsync()
    {
        await Shell.CommandAsync("kill", "-TERM", $"{_process.Id}");
        await _process.WaitForExitAsync();
        _process.Dispose();
    }

    private async Task<string> AskAsync(Sample sample, string token)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, $"{Url}/api/v1/calcom/agents/{sample.AgentId}/account");
        request.Headers.Authorization = new("Bearer", token);
        using var response = await s_client.SendAsync(request);
        return response.IsSuccessStatusCode
            ? await response.Content.ReadAsStringAsync()
            : throw new HttpRequestException($"{Name} answered {(int)response.StatusCode}");
    }
}
