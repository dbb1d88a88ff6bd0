using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure.Diagnostics;
using Dapper;
using Microsoft.Extensions.Logging;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>The service on a primary and two standbys that stream from it, by the connection string that docs/scaling.md shows.</summary>
public sealed class ReplicaTests(ReplicaTests.Setup setup) : IClassFixture<ReplicaTests.Setup>, IAsyncLifetime
{
    private static readonly Guid s_org = Guid.NewGuid();

    /// <summary>Npgsql's <c>Host Recheck Seconds</c>.</summary>
    private static readonly TimeSpan s_recheck = TimeSpan.FromSeconds(10);

    private TestService _service = null!;

    private string ConnectionString
    {
        get
        {
            var login = new NpgsqlConnectionStringBuilder(setup.Database.ServiceConnectionString);
            return $"Host={setup.Cluster.Hosts};{Docs.ConnectionOptions("db1,db2,db3")};Database={login.Database};Username={login.Username};Password={login.Password}";
        }
    }

    public async Task InitializeAsync()
    {
        // What was killed by the test before this one.
        foreach (var server in PostgresCluster.All)
        {
            await setup.Cluster.StartAgainAsync(server);
        }

        // The test's own; the service's pool is its own affair.
        NpgsqlConnection.ClearPool(new(setup.Database.OwnerConnectionString));
        _service = await TestService.StartAsync(ConnectionString, configure: builder => builder.Logging.AddProvider(setup.Errors));
        foreach (var standby in PostgresCluster.Standbys)
        {
            await Eventually.HoldsAsync(async () => await setup.Cluster.HasCaughtUpAsync(standby), TimeSpan.FromSeconds(10));
        }
    }

    [Fact]
    public async Task ReadsSpreadOverTheStandbys()
    {
        var before = await CountReadsAsync();

        await Task.WhenAll(Enumerable.Range(0, 8).Select(async _ =>
        {
            for (var i = 0; i < 50; i++)
            {
                Assert.Equal(200, await AskAsync());
            }
        }));

        // A session says what it has counted with a statement, and a second after it last did.
        await Eventually.HoldsAsync(
            async () => await AskAsync() is 200
                && await CountReadsAsync() is var now && PostgresCluster.Standbys.All(standby => now[standby] > before[standby] + 20),
            TimeSpan.FromSeconds(5));
        Assert.Equal(before[PostgresCluster.Primary], (await CountReadsAsync())[PostgresCluster.Primary]);
    }

    [Fact]
    public async Task AKilledStandbyCostsNoRequest_AndIsReadAgainWhenItIsBack()
    {
        await AssertNoneFailsAsync(() => setup.Cluster.KillAsync(PostgresCluster.Standby));

        await setup.Cluster.StartAgainAsync(PostgresCluster.Standby);
        await Eventually.HoldsAsync(
            async () => await AskAsync() is 200 && await CountSessionsAsync(PostgresCluster.Standby) > 0, s_recheck + TimeSpan.FromSeconds(2));
    }

    [Fact]
    public async Task AKilledPrimaryCostsNoRequest()
    {
        await AssertNoneFailsAsync(() => setup.Cluster.KillAsync(PostgresCluster.Primary));
    }

    // Npgsql has it for away until it rechecks.
    [Fact]
    public async Task AStandbyThatIsBackIsAskedAtOnce_WhenTheOthersAreKilled()
    {
        await AssertNoneFailsAsync(() => setup.Cluster.KillAsync(PostgresCluster.Standby));
        await setup.Cluster.StartAgainAsync(PostgresCluster.Standby);

        await AssertNoneFailsAsync(() => Task.WhenAll(setup.Cluster.KillAsync(PostgresCluster.Primary), setup.Cluster.KillAsync(PostgresCluster.OtherStandby)));
    }

    [Fact]
    public async Task WithoutStandbysThePrimaryAnswers()
    {
        await AssertNoneFailsAsync(async () =>
        {
            await setup.Cluster.KillAsync(PostgresCluster.Standby);
            await setup.Cluster.KillAsync(PostgresCluster.OtherStandby);
        });
        Assert.True(await CountSessionsAsync(PostgresCluster.Primary) > 0);
    }

    [Fact]
    public async Task WhenAllWereAwayTheFirstGoodAnswerComesWithinTwoSeconds()
    {
        await AssertNoneFailsAsync(() => Task.CompletedTask);
        await Task.WhenAll(PostgresCluster.All.Select(setup.Cluster.KillAsync));
        Assert.Equal(500, await AskAsync());

        await setup.Cluster.StartAgainAsync(PostgresCluster.Standby);
        await Eventually.HoldsAsync(async () => await AskAsync() is 200, TimeSpan.FromSeconds(2));
    }

    // It takes connections and answers nothing, as a machine does that is cut off.
    [Fact]
    public async Task AFrozenStandbyCostsTimeAndNoRequest()
    {
        for (var i = 0; i < 8; i++)
        {
            Assert.Equal(200, await AskAsync());
        }

        await setup.Cluster.FreezeAsync(PostgresCluster.Standby);
        try
        {
            for (var i = 0; i < 8; i++)
            {
                Assert.Equal(200, await AskAsync());
            }
        }
        finally
        {
            await setup.Cluster.ThawAsync(PostgresCluster.Standby);
        }
    }

    [Fact]
    public async Task CheckAsksOneOfThem()
    {
        var report = await DatabaseCheck.RunAsync(ConnectionString, CancellationToken.None);

        Assert.True(report.Ok, CheckReport.ToText(report));
    }

    [Fact]
    public async Task AStandbyThatLagsAnswersWhatItHas_AndCatchesUp()
    {
        foreach (var standby in PostgresCluster.Standbys)
        {
            await QueryAsync<string>(standby, "select pg_wal_replay_pause()::text");
        }

        var agent = await setup.Database.AddAgentAsync(s_org);
        Assert.Equal(404, await AskAsync(agent));
        Assert.Equal(200, (await _service.SendAsync("GET", "/health/ready")).Status);

        foreach (var standby in PostgresCluster.Standbys)
        {
            await QueryAsync<string>(standby, "select pg_wal_replay_resume()::text");
        }

        await Eventually.HoldsAsync(async () => await AskAsync(agent) is 200, TimeSpan.FromSeconds(5));
    }

    /// <summary>What 16 clients ask before, during and after it is all answered.</summary>
    private async Task AssertNoneFailsAsync(Func<Task> happening)
    {
        var answers = await Load.AskThroughAsync(16, _ => AskAsync(), async () =>
        {
            await Task.Delay(500);
            await happening();
            await Task.Delay(1500);
        });
        Assert.True(answers.All(status => status is 200), string.Join('\n', setup.Errors.Lines));
    }

    private async Task<int> AskAsync(Guid? agent = null) => (await _service.GetAccountAsync(agent ?? setup.Agent, Tokens.OfOrganization(s_org))).Status;

    /// <summary>Of each server, how often the service's statement has read the agents, in one way or another.</summary>
    private async Task<long[]> CountReadsAsync()
    {
        const string Sql = "select seq_scan + idx_scan from pg_stat_user_tables where schemaname = 'calcom' and relname = 'agents'";
        return
        [
            await QueryAsync<long>(PostgresCluster.Primary, Sql),
            await QueryAsync<long>(PostgresCluster.Standby, Sql),
            await QueryAsync<long>(PostgresCluster.OtherStandby, Sql),
        ];
    }

    private Task<long> CountSessionsAsync(int server) =>
        QueryAsync<long>(server, $"select count(*) from pg_stat_activity where usename = '{TestDatabase.ServiceLogin}'");

    private async Task<T> QueryAsync<T>(int server, string sql)
    {
        var database = new NpgsqlConnectionStringBuilder(setup.Database.OwnerConnectionString).Database;
        await using var connection = new NpgsqlConnection(new NpgsqlConnectionStringBuilder(setup.Cluster[server]) { Database = database, Pooling = false }.ConnectionString);
        return (await connection.ExecuteScalarAsync<T>(sql))!;
    }

    public async Task DisposeAsync() => await _service.DisposeAsync();

    public sealed class Setup : IAsyncLifetime
    {
        internal PostgresCluster Cluster { get; private set; } = null!;

        internal TestDatabase Database { get; private set; } = null!;

        internal CapturedLog Errors { get; } = new(LogLevel.Error);

        internal Guid Agent { get; private set; }

        public async Task InitializeAsync()
        {
            Cluster = await PostgresCluster.StartAsync();
            Database = await TestDatabase.OfTablesAsync(Cluster[PostgresCluster.Primary]);
            Agent = await Database.AddAgentAsync(s_org);
        }

        public async Task DisposeAsync()
        {
            Errors.Dispose();
            await Cluster.DisposeAsync();
        }
    }
}
