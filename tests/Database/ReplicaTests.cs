using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure.Diagnostics;
using Dapper;
using Microsoft.Extensions.Logging;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>Failover between a primary and two streaming standbys, with the connection string of docs/scaling.md.</summary>
public sealed class ReplicaTests(ReplicaTests.Setup setup) : IClassFixture<ReplicaTests.Setup>, IAsyncLifetime
{
    private static readonly Guid s_org = Guid.NewGuid();

    // Npgsql's default is 10 seconds; shorter here so that the test waits less.
    private const int HostRecheckSeconds = 3;

    private TestService _service = null!;

    private string ConnectionString
    {
        get
        {
            var login = new NpgsqlConnectionStringBuilder(setup.Database.ServiceConnectionString);
            return $"Host={setup.Cluster.Hosts};{Docs.ConnectionOptions("db1,db2,db3")};Host Recheck Seconds={HostRecheckSeconds};Database={login.Database};Username={login.Username};Password={login.Password}";
        }
    }

    public async ValueTask InitializeAsync()
    {
        // The previous test may have killed servers.
        foreach (var server in PostgresCluster.All)
        {
            await setup.Cluster.StartAgainAsync(server);
        }

        // Only the test's own pool; the service has to recover by itself.
        NpgsqlConnection.ClearPool(new(setup.Database.OwnerConnectionString));
        _service = await TestService.StartAsync(ConnectionString, configure: builder => builder.Logging.AddProvider(setup.Errors));
        foreach (var standby in PostgresCluster.Standbys)
        {
            await Eventually.HoldsAsync(async () => await setup.Cluster.HasCaughtUpAsync(standby), TimeSpan.FromSeconds(10));
        }
    }

    [Fact]
    public async Task Reads_AreBalancedOverTheStandbys()
    {
        var before = await CountReadsAsync();

        await Task.WhenAll(Enumerable.Range(0, 8).Select(async _ =>
        {
            for (var i = 0; i < 50; i++)
            {
                Assert.Equal(200, await SendRequestAsync());
            }
        }));

        // A session reports its statistics with a statement, at most once a second.
        await Eventually.HoldsAsync(
            async () => await SendRequestAsync() is 200
                && await CountReadsAsync() is var now && PostgresCluster.Standbys.All(standby => now[standby] > before[standby] + 20),
            TimeSpan.FromSeconds(5));
        Assert.Equal(before[PostgresCluster.Primary], (await CountReadsAsync())[PostgresCluster.Primary]);
    }

    [Fact]
    public async Task StandbyKilled_NoRequestFailsAndItIsUsedAgainAfterRestart()
    {
        await AssertNoRequestFailsAsync(() => setup.Cluster.KillAsync(PostgresCluster.Standby));

        await setup.Cluster.StartAgainAsync(PostgresCluster.Standby);
        await Eventually.HoldsAsync(
            async () => await SendRequestAsync() is 200 && await CountSessionsAsync(PostgresCluster.Standby) > 0, TimeSpan.FromSeconds(HostRecheckSeconds + 2));
    }

    [Fact]
    public async Task PrimaryKilled_NoRequestFails()
    {
        await AssertNoRequestFailsAsync(() => setup.Cluster.KillAsync(PostgresCluster.Primary));
    }

    // Npgsql treats the restarted standby as offline until it rechecks.
    [Fact]
    public async Task RestartedStandby_OtherServersKilled_IsUsedAtOnce()
    {
        await AssertNoRequestFailsAsync(() => setup.Cluster.KillAsync(PostgresCluster.Standby));
        await setup.Cluster.StartAgainAsync(PostgresCluster.Standby);

        await AssertNoRequestFailsAsync(() => Task.WhenAll(setup.Cluster.KillAsync(PostgresCluster.Primary), setup.Cluster.KillAsync(PostgresCluster.OtherStandby)));
    }

    [Fact]
    public async Task BothStandbysKilled_ReadsFailOverToThePrimary()
    {
        await AssertNoRequestFailsAsync(async () =>
        {
            await setup.Cluster.KillAsync(PostgresCluster.Standby);
            await setup.Cluster.KillAsync(PostgresCluster.OtherStandby);
        });
        Assert.True(await CountSessionsAsync(PostgresCluster.Primary) > 0);
    }

    [Fact]
    public async Task AllServersKilled_RecoversWithinTwoSecondsOfARestart()
    {
        await AssertNoRequestFailsAsync(() => Task.CompletedTask);
        await Task.WhenAll(PostgresCluster.All.Select(setup.Cluster.KillAsync));
        Assert.Equal(500, await SendRequestAsync());

        await setup.Cluster.StartAgainAsync(PostgresCluster.Standby);
        await Eventually.HoldsAsync(async () => await SendRequestAsync() is 200, TimeSpan.FromSeconds(2));
    }

    // A frozen server accepts connections but never answers, like a machine behind a network partition.
    [Fact]
    public async Task StandbyFrozen_RequestsAreSlowButSucceed()
    {
        for (var i = 0; i < 8; i++)
        {
            Assert.Equal(200, await SendRequestAsync());
        }

        await setup.Cluster.FreezeAsync(PostgresCluster.Standby);
        try
        {
            for (var i = 0; i < 8; i++)
            {
                Assert.Equal(200, await SendRequestAsync());
            }
        }
        finally
        {
            await setup.Cluster.ThawAsync(PostgresCluster.Standby);
        }
    }

    [Fact]
    public async Task Check_WithSeveralHosts_Succeeds()
    {
        var report = await DatabaseCheck.RunAsync(ConnectionString, isDistributed: false, CancellationToken.None);

        Assert.True(report.Ok, CheckReport.ToText(report));
    }

    [Fact]
    public async Task LaggingStandby_AnswersStaleDataUntilItCatchesUp()
    {
        foreach (var standby in PostgresCluster.Standbys)
        {
            await QueryAsync<string>(standby, "select pg_wal_replay_pause()::text");
        }

        var agent = await setup.Database.AddAgentAsync(s_org);
        Assert.Equal(404, await SendRequestAsync(agent));
        Assert.Equal(200, (await _service.SendAsync("GET", "/health/ready")).Status);

        foreach (var standby in PostgresCluster.Standbys)
        {
            await QueryAsync<string>(standby, "select pg_wal_replay_resume()::text");
        }

        await Eventually.HoldsAsync(async () => await SendRequestAsync(agent) is 200, TimeSpan.FromSeconds(5));
    }

    /// <summary>Fails unless every request of 16 clients before, during and after the fault succeeds.</summary>
    private async Task AssertNoRequestFailsAsync(Func<Task> fault)
    {
        var answers = await Load.SendDuringAsync(
            16,
            _ => SendRequestAsync(),
            async () =>
            {
                await Task.Delay(300);
                await fault();
                await Task.Delay(1000);
            },
            Load.Pause);
        Assert.True(answers.All(status => status is 200), string.Join('\n', setup.Errors.Lines));
    }

    private async Task<int> SendRequestAsync(Guid? agent = null) => (await _service.GetAccountAsync(agent ?? setup.Agent, Tokens.OfOrganization(s_org))).Status;

    /// <summary>How often the agents have been read on each server, by index or sequentially.</summary>
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

    public async ValueTask DisposeAsync() => await _service.DisposeAsync();

    public sealed class Setup : IAsyncLifetime
    {
        internal PostgresCluster Cluster { get; private set; } = null!;

        internal TestDatabase Database { get; private set; } = null!;

        internal CapturedLog Errors { get; } = new(LogLevel.Error);

        internal Guid Agent { get; private set; }

        public async ValueTask InitializeAsync()
        {
            Cluster = await PostgresCluster.StartAsync();
            Database = await TestDatabase.OfTablesAsync(Cluster[PostgresCluster.Primary]);
            Agent = await Database.AddAgentAsync(s_org);
        }

        public async ValueTask DisposeAsync()
        {
            Errors.Dispose();
            await Cluster.DisposeAsync();
        }
    }
}
