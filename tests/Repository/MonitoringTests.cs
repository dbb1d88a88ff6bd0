using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using YamlDotNet.RepresentationModel;

namespace CalcomAccounts.Tests.Repository;

/// <summary>The dashboard and the alert rules use only series and labels that the service exports.</summary>
[Collection(AfterAllOthers.Name)]
public sealed partial class MonitoringTests(ServiceFixture fixture)
{
    private static readonly string s_folder = Path.Combine(ServiceProcess.Repository, "deploy", "monitoring");

    // Labels that Prometheus adds to each scraped sample.
    private static readonly string[] s_scrapeLabels = ["instance", "job"];

    [Fact]
    public async Task SeriesOfTheDashboard_AreAllExported()
    {
        var panels = JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(s_folder, "grafana-dashboard.json")))!["panels"]!.AsArray();
        var exported = await ExportSeriesAsync();

        Assert.Equal(Enumerable.Range(1, panels.Count), panels.Select(panel => panel!["id"]!.GetValue<int>()));
        Assert.All(panels, panel => Assert.NotEmpty(panel!["targets"]!.AsArray()));
        foreach (var target in panels.SelectMany(panel => panel!["targets"]!.AsArray()))
        {
            var expression = target!["expr"]!.GetValue<string>();
            AssertExported(expression, exported);
            foreach (Match legend in LegendLabel.Matches(target["legendFormat"]!.GetValue<string>()))
            {
                Assert.True(s_scrapeLabels.Contains(legend.Groups[1].Value) || expression.Contains(legend.Groups[1].Value, StringComparison.Ordinal), expression);
            }
        }
    }

    [Fact]
    public async Task SeriesOfTheAlertRules_AreAllExported()
    {
        var yaml = new YamlStream();
        yaml.Load(new StringReader(await File.ReadAllTextAsync(Path.Combine(s_folder, "prometheus-alerts.yaml"))));
        var rules = yaml.Documents[0].RootNode["groups"].AllNodes.OfType<YamlMappingNode>().Where(node => node.Children.ContainsKey("alert")).ToList();
        var exported = await ExportSeriesAsync();

        Assert.Equal(Docs.Table("docs/operations.md", "alert").Select(row => row[0]), rules.Select(rule => ((YamlScalarNode)rule["alert"]).Value));
        Assert.All(rules, rule => AssertExported(((YamlScalarNode)rule["expr"]).Value!, exported));
    }

    /// <summary>The exported series after requests with every outcome: the labels of each, by name.</summary>
    private async Task<ILookup<string, Dictionary<string, string>>> ExportSeriesAsync()
    {
        var (port, org) = (PostgresServer.FreePort(), Guid.NewGuid());
        await using var authority = await TestAuthority.StartAsync();
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, new()
        {
            ["OTEL_EXPORTER_PROMETHEUS_PORT"] = $"{port}",
            ["CalcomAccounts:Authorities:0:Authority"] = authority.Issuer,
            ["CalcomAccounts:Authorities:0:RequireHttpsMetadata"] = "false",
            ["CalcomAccounts:Authorities:0:ValidAudience"] = Tokens.Audience,
        });
        var (active, failing) = (await fixture.Tables.AddAgentAsync(org), await fixture.Tables.AddAgentAsync(org));
        await fixture.Tables.AddKeyAsync(active, new());
        await fixture.Tables.AddKeyAsync(failing, new() { Status = "error" });
        foreach (var agent in new[] { active, failing, await fixture.Tables.AddAgentAsync(org), Guid.NewGuid() })
        {
            await service.GetAccountAsync(agent, Tokens.OfOrganization(org));
        }

        return (
            from line in (await Prometheus.ScrapeAsync(port)).Split('\n')
            let sample = Sample.Match(line)
            where sample.Success
            select (Name: sample.Groups[1].Value, Labels: Matcher.Matches(sample.Groups[2].Value).ToDictionary(label => label.Groups[1].Value, label => label.Groups[3].Value)))
            .ToLookup(sample => sample.Name, sample => sample.Labels);
    }

    private static void AssertExported(string expression, ILookup<string, Dictionary<string, string>> exported)
    {
        var selectors = Selector.Matches(expression);
        Assert.NotEmpty(selectors);
        foreach (Match selector in selectors)
        {
            var series = exported[selector.Groups[1].Value];
            Assert.True(series.Any(), $"nothing is exported of {selector.Value}");
            foreach (Match matcher in Matcher.Matches(selector.Groups[2].Value))
            {
                var (label, sign, value) = (matcher.Groups[1].Value, matcher.Groups[2].Value, matcher.Groups[3].Value);
                Assert.True(
                    series.Any(labels => labels.TryGetValue(label, out var found)
                        && (sign is "=~" ? Regex.IsMatch(found, $"^(?:{value})$") : found == value == (sign is "="))),
                    $"no {selector.Value}");
            }

            Assert.All(
                Grouping.Matches(expression).SelectMany(grouping => grouping.Groups[1].Value.Split(',', StringSplitOptions.TrimEntries)),
                label => Assert.Contains(series, labels => labels.ContainsKey(label)));
        }
    }

    [GeneratedRegex(@"\{\{(\w+)\}\}")]
    private static partial Regex LegendLabel { get; }

    [GeneratedRegex(@"^(\w+)(\{.*\})? \S+$")]
    private static partial Regex Sample { get; }

    // In expressions a series is followed by its labels or its range.
    [GeneratedRegex(@"\b([a-z][a-z_]+)(\{[^}]*\}|(?=\[))")]
    private static partial Regex Selector { get; }

    [GeneratedRegex(@"(\w+)(=~|!=|=)""([^""]*)""")]
    private static partial Regex Matcher { get; }

    [GeneratedRegex(@"\bby \(([^)]*)\)")]
    private static partial Regex Grouping { get; }
}
