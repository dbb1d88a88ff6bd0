using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net.Http.Json;

namespace CalcomAccounts.Tests;

/// <summary>
/// Whatever one tenant asks or stores, others keep at least a third of the rate that they had without it, their p99 stays under 100 ms,
/// none of their requests fails, and readiness does not turn.
/// </summary>
[Collection(AfterAllOthers.Name)]
public sealed class IsolationTests(IsolationTests.Setup setup) : IClassFixture<IsolationTests.Setup>
{
    private static readonly TimeSpan s_duration = TimeSpan.FromSeconds(3);

    [Theory]
    [InlineData(64, 100)]
    [InlineData(300, 16)]
    public Task ListsOfOneTenant_FromManyConnections_LeaveOthersTheirShare(int connections, int length) =>
        AssertOthersKeepTheirShareAsync(connections, (client, _) => PostAsync(client, setup.Hostile, setup.HostileAgents.Take(length)));

    [Fact]
    public Task ListsOfManyTenants_LeaveOthersTheirShare() => AssertOthersKeepTheirShareAsync(
        64,
        (client, index) => PostAsync(client, Tokens.OfOrganization(setup.OtherOrganizations[index % 8]), setup.HostileAgents.Take(100)));

    [Fact]
    public Task ListsOfMembersWithoutOrganization_LeaveOthersTheirShare() =>
        AssertOthersKeepTheirShareAsync(64, (client, index) => PostAsync(client, Tokens.OfSubject($"member{index % 4}"), setup.HostileAgents.Take(100)));

    // Suspects are sent alone from their second time on, so the first is seen too.
    [Theory]
    [InlineData(1)]
    [InlineData(10)]
    public Task LookupThatAlwaysTimesOut_SeveralTimesASecond_CostsOnlyItself(int perSecond) => AssertOthersKeepTheirShareAsync(
        8 * perSecond,
        async (client, index) =>
        {
            await Task.Delay(TimeSpan.FromSeconds(index / (double)perSecond));
            await GetAsync(client, setup.Hostile, setup.SlowAgents[0]);
            await Task.Delay(TimeSpan.FromSeconds(8));
        });

    [Fact]
    public Task TenantWhoseEveryLookupTimesOut_CostsOnlyItself() =>
        AssertOthersKeepTheirShareAsync(32, (client, _) => GetAsync(client, setup.Hostile, setup.NextSlowAgent()));

    [Fact]
    public Task MembersWhoseLookupsTimeOut_CostOnlyThemselves() =>
        AssertOthersKeepTheirShareAsync(16, (client, index) => GetAsync(client, Tokens.OfSubject($"member{index % 4}"), setup.NextSlowAgent()));

    [Theory]
    [InlineData(1)]
    [InlineData(16)]
    public Task ListWithALookupThatTimesOut_CostsOnlyItself(int connections) => AssertOthersKeepTheirShareAsync(
        connections, (client, _) => PostAsync(client, setup.Hostile, setup.HostileAgents.Take(20).Append(setup.SlowAgents[0])));

    [Fact]
    public Task LookupThatFailsAtOnce_From16Connections_CostsOnlyItself() =>
        AssertOthersKeepTheirShareAsync(16, (client, _) => GetAsync(client, setup.Hostile, setup.FailingAgents[0]));

    [Fact]
    public Task TenantWhoseEveryLookupFailsAtOnce_CostsOnlyItself() =>
        AssertOthersKeepTheirShareAsync(16, (client, index) => GetAsync(client, setup.Hostile, setup.FailingAgents[index % setup.FailingAgents.Count]));

    [Fact]
    public Task AgentOfTenThousandKeys_AskedForAsAListOfDuplicates_CostsLittle() =>
        AssertOthersKeepTheirShareAsync(8, (client, _) => PostAsync(client, setup.Hostile, Enumerable.Repeat(setup.AgentOfManyKeys, 100)));

    [Fact]
    public Task AgentsWithValuesOf10MB_CostLittle() =>
        AssertOthersKeepTheirShareAsync(8, (client, _) => PostAsync(client, setup.Hostile, setup.AgentsOfLongValues));

    [Fact]
    public Task FloodOfReadinessProbes_CostsLittle() => AssertOthersKeepTheirShareAsync(
        500,
        async (client, _) =>
        {
            using var answer = await client.GetAsync(new Uri("/health/ready", UriKind.Relative));
        });

    private async Task AssertOthersKeepTheirShareAsync(int attackers, Func<HttpClient, int, Task> attackAsync)
    {
        var alone = await setup.MeasureOthersAsync(s_duration / 2);
        using var client = setup.CreateClient();
        using var enough = new CancellationTokenSource();
        var attack = Task.WhenAll(Enumerable.Range(0, attackers).Select(index => Task.Run(async () =>
        {
            while (!enough.IsCancellationRequested)
            {
                try
                {
                    await attackAsync(client, index).WaitAsync(enough.Token);
                }
                catch (OperationCanceledException)
                {
                }
            }
        })));
        var attacked = await setup.MeasureOthersAsync(s_duration);
        await enough.CancelAsync();
        client.CancelPendingRequests();
        await attack;

        var seen = $"alone {alone}, attacked {attacked}";
        Assert.True(attacked.Failures.Count is 0, $"{seen}: {string.Join(", ", attacked.Failures.GroupBy(failure => failure).Select(failure => $"{failure.Count()} × {failure.Key}"))}");
        Assert.True(attacked.PerSecond * 3 >= alone.PerSecond && attacked.P99 < TimeSpan.FromMilliseconds(100), seen);
        Assert.True(attacked.Unready is 0, seen);
    }

    private static Task<int> GetAsync(HttpClient client, string token, Guid agent) =>
        SendAsync(client, HttpMethod.Get, TestService.AccountPath(agent.ToString()), token, content: null);

    private static Task<int> PostAsync(HttpClient client, string token, IEnumerable<Guid> agents) =>
        SendAsync(client, HttpMethod.Post, TestService.AccountsPath, token, JsonContent.Create(new { agent_ids = agents }));

    private static async Task<int> SendAsync(HttpClient client, HttpMethod method, string path, string token, HttpContent? content)
    {
        using var request = new HttpRequestMessage(method, path) { Content = content };
        request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {token}");
        using var response = await client.SendAsync(request);
        return (int)response.StatusCode;
    }

    internal sealed record Measured(double PerSecond, TimeSpan P50, TimeSpan P99, IReadOnlyCollection<string> Failures, int Unready)
    {
        public override string ToString() =>
            $"{PerSecond:0}/s p50 {P50.TotalMilliseconds:0.0} ms p99 {P99.TotalMilliseconds:0.0} ms, {Failures.Count} failed, {Unready} times unready";
    }

    /// <summary>A service of its own as a process, on views of which some rows fail or take for ever, and a tenant who asks all the while.</summary>
    public sealed class Setup : IAsyncLifetime
    {
        private const int Connections = 16;
        private readonly Guid _organization = Guid.NewGuid();
        private readonly Guid _hostileOrganization = Guid.NewGuid();
        private PostgresServer _server = null!;
        private ServiceProcess _process = null!;
        private HttpClient _client = null!;
        private Uri _url = null!;
        private List<Guid> _agents = null!;
        private int _nextSlowAgent;

        internal string Hostile { get; private set; } = null!;

        internal Guid[] OtherOrganizations { get; } = [.. Enumerable.Range(0, 8).Select(_ => Guid.NewGuid())];

        internal IReadOnlyList<Guid> HostileAgents { get; private set; } = null!;

        internal IReadOnlyList<Guid> SlowAgents { get; private set; } = null!;

        internal IReadOnlyList<Guid> FailingAgents { get; private set; } = null!;

        internal IReadOnlyList<Guid> AgentsOfLongValues { get; private set; } = null!;

        internal Guid AgentOfManyKeys { get; private set; }

        public async Task InitializeAsync()
        {
            _server = await PostgresServer.StartAsync();
            var database = await TestDatabase.OfTablesAsync(_server);
            Hostile = Tokens.OfOrganization(_hostileOrganization);
            _agents = await AddAgentsAsync(database, _organization, "mine", 64);
            HostileAgents = await AddAgentsAsync(database, _hostileOrganization, "theirs", 100);
            SlowAgents = await AddAgentsAsync(database, _hostileOrganization, "slow", 2000);
            FailingAgents = await AddAgentsAsync(database, _hostileOrganization, "failing", 100);
            AgentsOfLongValues = await AddAgentsAsync(database, _hostileOrganization, "long", 10);
            AgentOfManyKeys = (await AddAgentsAsync(database, _hostileOrganization, "many", 1))[0];
            for (var i = 0; i < 4; i++)
            {
                await database.AddMemberAsync(_hostileOrganization, $"member{i}");
            }

            await database.ExecuteAsync($"""
                insert into calcom.agent_keys (agent_id, status) select '{AgentOfManyKeys}', 'inactive' from generate_series(1, 10000);
                alter table calcom.agent_keys drop constraint if exists agent_keys_account_name_length;
                update calcom.agent_keys set account_name = repeat('x', 10000000) where agent_id in (select id from calcom.agents where name = 'long');
                alter table calcom.agents rename to agents_table;
                create view calcom.agents as
                    select id, org_id, name, org_account_id, deleted_at from calcom.agents_table
                    where case name when 'slow' then length(pg_sleep(30)::text) = 0 when 'failing' then 1 / (length(name) - 7) = 1 else true end;
                grant select on calcom.agents to calcom_reader;
                analyze
                """);

            _process = ServiceProcess.Start(["--urls=http://127.0.0.1:0"], new()
            {
                ["ConnectionStrings__CalcomAccounts"] = database.ServiceConnectionString,
                ["Authentication__Schemes__Bearer__ValidIssuer"] = Tokens.Issuer,
                ["Authentication__Schemes__Bearer__ValidAudience"] = Tokens.Audience,
                ["Authentication__Schemes__Bearer__SigningKeys__0__Value"] = Convert.ToBase64String(Tokens.Key),
            });
            _url = new(await _process.WaitForUrlAsync());
            _client = CreateClient();
            await MeasureOthersAsync(TimeSpan.FromSeconds(4));
        }

        public async Task DisposeAsync()
        {
            _client.Dispose();
            _process.Dispose();
            await _server.DisposeAsync();
        }

        internal HttpClient CreateClient() => new(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = _url };

        internal Guid NextSlowAgent() => SlowAgents[Interlocked.Increment(ref _nextSlowAgent) % SlowAgents.Count];

        /// <summary>One tenant's single lookups, from as many connections as a dashboard of it might have.</summary>
        internal async Task<Measured> MeasureOthersAsync(TimeSpan duration)
        {
            var token = Tokens.OfOrganization(_organization);
            var times = new ConcurrentBag<TimeSpan>();
            var failures = new ConcurrentBag<string>();
            var unready = 0;
            var began = Stopwatch.GetTimestamp();
            var probing = Task.Run(async () =>
            {
                using var client = CreateClient();
                while (Stopwatch.GetElapsedTime(began) < duration)
                {
                    using var ready = await client.GetAsync(new Uri("/health/ready", UriKind.Relative));
                    unready += ready.IsSuccessStatusCode ? 0 : 1;
                    await Task.Delay(100);
                }
            });
            await Task.WhenAll(Enumerable.Range(0, Connections).Select(index => Task.Run(async () =>
            {
                for (var i = index; Stopwatch.GetElapsedTime(began) < duration; i++)
                {
                    var asked = Stopwatch.GetTimestamp();
                    var status = await GetAsync(_client, token, _agents[i % _agents.Count]);
                    times.Add(Stopwatch.GetElapsedTime(asked));
                    if (status is not 200)
                    {
                        failures.Add($"{status}");
                    }
                }
            })));
            await probing;
            var sorted = times.Order().ToList();
            return new(sorted.Count / duration.TotalSeconds, sorted[sorted.Count / 2], sorted[sorted.Count * 99 / 100], failures, unready);
        }

        private static async Task<List<Guid>> AddAgentsAsync(TestDatabase database, Guid organization, string name, int count) =>
            [.. await database.QueryAsync<Guid>(
                $"""
                with agent as (insert into calcom.agents (org_id, name) select '{organization}', '{name}' from generate_series(1, {count}) returning id)
                insert into calcom.agent_keys (agent_id, account_name, api_key) select id, 'key', 'cal_secret' from agent returning agent_id
                """)];
    }
}
