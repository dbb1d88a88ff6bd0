using System.Globalization;
using CalcomAccounts.Benchmarks;

// Measures the published service against the baseline and a rival beside it, on a private PostgreSQL, and prints a table for each scenario.
// With '--bulk', it measures what one tenant's lists leave to another, and the rest only if '--connections' is there too. As 'micro', what
// parts of a request cost.
if (args is ["micro", .. var words])
{
    MicroBenchmarks.Run(once: words is ["once"]);
    return 0;
}

var isBulk = args.Contains("--bulk");
args = [.. args.Where(arg => arg is not "--bulk")];
var options = new ConfigurationBuilder().AddCommandLine(args).Build();
int Number(string name, int otherwise) => options.GetValue(name, otherwise);

Scenario[] scenarios =
[
    new("HS256", 100_000, 20_000, 1), new("HS256", 100_000, 20_000, 16), new("HS256", 100_000, 20_000, 64), new("HS256", 100_000, 20_000, 256),
    new("RS256", 100_000, 20_000, 64), new("ES256", 100_000, 20_000, 64), new("HS256", 100_000, 1_000, 64), new("HS256", 100_000, 50_000, 64),
];
if (options["connections"] is { } connections)
{
    scenarios =
    [
        .. from algorithm in (options["algorithms"] ?? "HS256").Split(',')
           from agents in (options["agents"] ?? "100000").Split(',')
           from tokens in (options["tokens"] ?? "20000").Split(',')
           from count in connections.Split(',')
           select new Scenario(
               algorithm,
               int.Parse(agents, CultureInfo.InvariantCulture),
               int.Parse(tokens, CultureInfo.InvariantCulture),
               int.Parse(count, CultureInfo.InvariantCulture)),
    ];
}

var rounds = new Rounds(Number("rounds", 7), Number("seconds", 5), Number("warm-up", 60), Number("starts", 7));
var folder = Directory.CreateTempSubdirectory("calcom-accounts-benchmark-").FullName;
try
{
    var service = await Comparison.PublishAsync(folder, "src/Api", "CalcomAccounts.Api");
    var environment = options["service-environment"] ?? "";
    var errors = isBulk ? await Bulk.RunAsync(folder, service, rounds, environment) : 0;
    if (!isBulk || options["connections"] is not null)
    {
        errors += await Comparison.RunAsync(folder, service, scenarios, rounds, options["baseline-pool"] ?? "16", environment, options["service-connection"] ?? "");
    }

    return errors is 0 ? 0 : 1;
}
finally
{
    Directory.Delete(folder, recursive: true);
}
