using System.Net;
using System.Text.RegularExpressions;
using CalcomAccounts.Api.Hosting;
using Microsoft.Extensions.DependencyInjection;

namespace CalcomAccounts.Tests.Api;

/// <summary>Exported traces and metrics. They cover all services of this process, so no other test may run at the same time.</summary>
[Collection(AfterAllOthers.Name)]
public sealed class TelemetryTests(ServiceFixture fixture)
{
    private const string Canary = "zq7Xw";

    private readonly Guid _org = Guid.NewGuid();

    [Theory]
    [InlineData(null)]
    [InlineData("grpc")]
    [InlineData("http/protobuf")]
    public async Task Request_IsTracedWithOutcomeAndCandidateReasons(string? protocol)
    {
        await using var collector = await TestCollector.StartAsync(protocol);
        var agent = await fixture.Tables.AddAgentAsync(_org, await fixture.Tables.AddOrgAccountAsync(_org, new()));
        await fixture.Tables.AddKeyAsync(agent, new() { Status = "error" });
        await fixture.Tables.AddKeyAsync(agent, new() { Status = "inactive" });
        await using (var service = await StartAsync(collector.Settings))
        {
            Assert.Equal(200, (await service.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Status);
            await service.StopAsync();
        }

        var request = Assert.Single(collector.Spans, span => span.Attributes.ContainsKey("http.route"));
        Assert.Equal("GET api/v1/calcom/agents/{agent_id}/account", request.Name);
        Assert.Equal("200", request.Attributes["http.response.status_code"]);
        Assert.Equal($"/api/v1/calcom/agents/{agent}/account", request.Attributes["url.path"]);
        Assert.Equal("agent", request.Attributes["calcom.account.outcome"]);
        Assert.Equal(
            ["agent used", "agent inactive", "org_linked outranked"],
            request.Events.Select(one => $"{one.Attributes["calcom.account.type"]} {one.Attributes["calcom.account.reason"]}").Order().OrderBy(text => text is "agent used" ? 0 : 1));
        Assert.All(request.Events, one => Assert.Equal("calcom.account.candidate", one.Name));

        var lookup = Assert.Single(collector.Spans, span => span.Name is "calcom.accounts.lookup");
        Assert.Equal((request.TraceId, request.SpanId), (lookup.TraceId, lookup.ParentSpanId));
        Assert.Contains(collector.Spans, span => span.ParentSpanId == lookup.SpanId && span.Attributes.GetValueOrDefault("db.system.name") is "postgresql");
        Assert.Contains("calcom.account.resolutions", collector.MetricsText, StringComparison.Ordinal);
        Assert.Contains("calcom-accounts", collector.MetricsText, StringComparison.Ordinal);
        Assert.Contains(ServiceHost.Version, collector.MetricsText, StringComparison.Ordinal);
    }

    [Fact]
    public async Task BatchedLookup_IsLinkedToTheTraceOfEachRequest()
    {
        await using var collector = await TestCollector.StartAsync();
        var agent = await fixture.Tables.AddAgentAsync(_org);
        await using (var service = await StartAsync(new(collector.Settings) { ["CalcomAccounts:MaxConcurrentStatements"] = "1" }))
        {
            await Task.WhenAll(Enumerable.Range(0, 50).Select(_ => service.GetAccountAsync(agent, Tokens.OfOrganization(_org))));
            await service.StopAsync();
        }

        var requests = collector.Spans.Where(span => span.Attributes.ContainsKey("http.route")).ToList();
        var lookups = collector.Spans.Where(span => span.Name is "calcom.accounts.lookup").ToList();
        Assert.Equal(50, requests.Count);
        Assert.InRange(lookups.Count, 2, 49);
        Assert.Equal(requests.Select(span => span.TraceId).Order(), lookups.SelectMany(span => span.LinkedTraceIds.Append(span.TraceId)).Order());
    }

    [Fact]
    public async Task TracesAndMetrics_HoldNoCallerInputOrSecret()
    {
        await using var collector = await TestCollector.StartAsync();
        var prometheus = PostgresServer.FreePort();
        var token = Tokens.OfOrganization(_org);
        var agent = await fixture.Tables.AddAgentAsync(_org);
        string scraped;
        await using (var service = await StartAsync(new(collector.Settings) { ["OTEL_EXPORTER_PROMETHEUS_PORT"] = $"{prometheus}" }))
        {
            foreach (var request in new[]
            {
                $"GET {TestService.AccountPath(agent.ToString())}?{Canary}={token} HTTP/1.1\r\nHost: {Canary}\r\nUser-Agent: {token}\r\nTracestate: {Canary}={Canary}\r\nTraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nBaggage: {Canary}={Canary}",
                $"GET {TestService.AccountPath(token)} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {Canary}",
                $"GET /{Canary}/{token} HTTP/1.1\r\nHost: a",
                $"{Canary} {TestService.AccountPath(Canary)}/explain HTTP/1.1\r\nHost: a",
                $"GET {TestService.AccountPath(Guid.NewGuid().ToString())} HTTP/1.1\r\nHost: a:{Canary}",
            })
            {
                await RawHttp.SendAsync(service.Url, $"{request}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
            }

            scraped = await Prometheus.ScrapeAsync(prometheus);
            await service.StopAsync();
        }

        Assert.NotEmpty(collector.Spans);
        Assert.All([collector.Text, scraped], exported =>
        {
            Assert.DoesNotContain(Canary, exported, StringComparison.OrdinalIgnoreCase);
            Assert.False(LeakDetector.HoldsSecret(exported));
        });
        Assert.Contains(agent.ToString(), collector.Text, StringComparison.Ordinal);
        Assert.All([collector.MetricsText, scraped], metrics =>
        {
            Assert.DoesNotContain(agent.ToString(), metrics, StringComparison.Ordinal);
            Assert.DoesNotContain(_org.ToString(), metrics, StringComparison.Ordinal);
        });
    }

    [Fact]
    public async Task PrometheusEndpoint_ReportsResolutionMetricsOnItsOwnPort()
    {
        var port = PostgresServer.FreePort();
        await using var service = await StartAsync(new() { ["OTEL_EXPORTER_PROMETHEUS_PORT"] = $"{port}" });
        var agents = new Dictionary<string, Guid>();
        foreach (var status in new[] { "active", " Error", "", "what?" })
        {
            agents[status] = await fixture.Tables.AddAgentAsync(_org);
            await fixture.Tables.AddKeyAsync(agents[status], new() { Status = status });
        }

        var linked = await fixture.Tables.AddAgentAsync(_org, await fixture.Tables.AddOrgAccountAsync(_org, new()));
        var none = await fixture.Tables.AddAgentAsync(_org);
        var token = Tokens.OfOrganization(_org);
        foreach (var agent in agents.Values.Append(linked).Append(none).Append(Guid.NewGuid()))
        {
            await service.GetAccountAsync(agent, token);
        }

        await service.ExplainAccountAsync(none, token);
        await service.GetAccountsAsync([linked, linked, none, Guid.NewGuid()], token);
        await service.GetAccountAsync(none, token: null);

        var scraped = Samples(await Prometheus.ScrapeAsync(port)).Where(sample => sample.Series.StartsWith("calcom_", StringComparison.Ordinal)).ToDictionary();
        foreach (var (operation, type, count) in new[]
        {
            ("GetAgentCalcomAccount", "agent", "4"), ("GetAgentCalcomAccount", "org_linked", "1"), ("GetAgentCalcomAccount", "none", "1"), ("GetAgentCalcomAccount", "not_found", "1"),
            ("ExplainAgentCalcomAccount", "none", "1"), ("GetAgentCalcomAccounts", "org_linked", "2"), ("GetAgentCalcomAccounts", "none", "1"), ("GetAgentCalcomAccounts", "not_found", "1"),
        })
        {
            Assert.Equal(count, scraped[$"calcom_account_resolutions_total{{operation=\"{operation}\",type=\"{type}\"}}"]);
        }

        // Once per request, however many agents are in it.
        foreach (var (operation, count) in new[] { ("GetAgentCalcomAccount", "7"), ("ExplainAgentCalcomAccount", "1"), ("GetAgentCalcomAccounts", "1") })
        {
            Assert.Equal(count, scraped[$"calcom_account_resolution_duration_seconds_count{{operation=\"{operation}\"}}"]);
            Assert.Equal(count, scraped[$"calcom_account_resolution_duration_seconds_bucket{{operation=\"{operation}\",le=\"5\"}}"]);
        }

        foreach (var (operation, status, count) in new[]
        {
            ("GetAgentCalcomAccount", "active", "2"), ("GetAgentCalcomAccount", "error", "1"), ("GetAgentCalcomAccount", "unknown", "1"), ("GetAgentCalcomAccount", "other", "1"),
            ("GetAgentCalcomAccounts", "active", "2"),
        })
        {
            Assert.Equal(count, scraped[$"calcom_account_statuses_total{{operation=\"{operation}\",status=\"{status}\"}}"]);
        }

        using var client = new HttpClient();
        Assert.Equal(HttpStatusCode.NotFound, (await client.GetAsync(new Uri($"http://localhost:{port}{TestService.AccountPath(none.ToString())}"))).StatusCode);
        Assert.Equal(404, (await service.SendAsync("GET", "/metrics", token)).Status);
    }

    private Task<TestService> StartAsync(Dictionary<string, string?> settings) =>
        TestService.StartAsync(fixture.Tables.ServiceConnectionString, settings);

    /// <summary>Name and labels, without those that the exporter adds, and value.</summary>
    private static IEnumerable<(string Series, string Value)> Samples(string scraped) =>
        from line in scraped.Split('\n')
        where line is not ['#', ..] and not ""
        let parts = line.Split(' ')
        select (Regex.Replace(parts[0], "otel_scope_[a-z]+=\"[^\"]*\",?", "").Replace(",}", "}", StringComparison.Ordinal), parts[1]);
}
