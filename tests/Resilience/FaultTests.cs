using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using CalcomAccounts.Application;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CalcomAccounts.Tests.Resilience;

/// <summary>
/// docs/operations.md: how the service behaves while its database fails, on a server of its own.
/// </summary>
public sealed class FaultTests(DatabaseFixture setup) : IClassFixture<DatabaseFixture>
{
    private const string InternalError = """{"success":false,"message":"Something went wrong; try again","code":"INTERNAL_ERROR"}""";

    [Fact]
    public Task DatabaseStopped_RequestsFailFastAndRecover() => AssertBoundedAsync(setup.Server.StopAsync, setup.Server.StartAgainAsync);

    [Fact]
    public Task DatabaseFrozen_RequestsFailWithinTimeoutAndRecover() => AssertBoundedAsync(setup.Server.FreezeAsync, setup.Server.ThawAsync);

    [Fact]
    public async Task TableLocked_RequestsFailWithinTimeoutAndRecover()
    {
        IAsyncDisposable? locked = null;
        await AssertBoundedAsync(async () => locked = await setup.LockAsync(), () => locked!.DisposeAsync().AsTask());
    }

    [Fact]
    public Task ConnectionLimitOfDatabaseReached_RequestsFailFastAndRecover() => AssertBoundedAsync(
        () => ExecuteAsync($"alter role {TestDatabase.ServiceLogin} connection limit 0; {EndSessions}"),
        () => ExecuteAsync($"alter role {TestDatabase.ServiceLogin} connection limit -1"));

    // SQLSTATE 58P01, of the same class as a full disk: every connection is accepted, then fails.
    [Fact]
    public Task DatabaseSessionsFailAtStart_RequestsFailFastAndRecover() => AssertBoundedAsync(
        () => ExecuteAsync($"alter role {TestDatabase.ServiceLogin} set session_preload_libraries = 'not_there'; {EndSessions}"),
        () => ExecuteAsync($"alter role {TestDatabase.ServiceLogin} reset session_preload_libraries"));

    [Fact]
    public Task SchemaMissing_RequestsFailFastAndRecover() => AssertBoundedAsync(
        () => ExecuteAsync("alter schema calcom rename to elsewhere"),
        () => ExecuteAsync("alter schema elsewhere rename to calcom"));

    [Fact]
    public Task ColumnMissing_RequestsFailFastAndRecover() => AssertBoundedAsync(
        () => ExecuteAsync("alter table calcom.agent_keys rename column api_base_url to url"),
        () => ExecuteAsync("alter table calcom.agent_keys rename column url to api_base_url"));

    [Fact]
    public Task PrivilegesMissing_RequestsFailFastAndRecover() => AssertBoundedAsync(
        () => ExecuteAsync("revoke usage on schema calcom from calcom_reader"),
        () => ExecuteAsync("grant usage on schema calcom to calcom_reader"));

    [Fact]
    public async Task SessionTerminatedBetweenRequests_RequestsSucceed()
    {
        for (var i = 0; i < 5; i++)
        {
            Assert.Equal(200, (await SendRequestAsync()).Status);
            await ExecuteAsync(EndSessions);
        }

        Assert.Equal(200, (await SendRequestAsync()).Status);
    }

    [Fact]
    public async Task ConnectionFailure_IsTriedThreeTimes()
    {
        using var server = new TcpListener(IPAddress.Loopback, 0);
        server.Start();
        using var stop = new CancellationTokenSource();
        var accepted = 0;
        var accepting = Task.Run(async () =>
        {
            while (true)
            {
                using var session = await server.AcceptSocketAsync(stop.Token);
                accepted++;
            }
        });
        await using var service = await TestService.StartAsync(
            $"Host=127.0.0.1;Port={((IPEndPoint)server.LocalEndpoint).Port};Username=nobody;SSL Mode=Disable;GSS Encryption Mode=Disable");

        await Assert.ThrowsAsync<NpgsqlException>(() => service.Services.GetRequiredService<IAgentReader>().FindAsync(
            [Guid.NewGuid()], Caller.OfOrganization(DatabaseFixture.Org), new CancellationTokenSource(TimeSpan.FromSeconds(2)).Token));

        await stop.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => accepting);
        Assert.Equal(3, accepted);
    }

    [Fact]
    public async Task SessionsTerminatedUnderLoad_NoRequestFails()
    {
        setup.Errors.Lines.Clear();
        var answers = await Load.SendDuringAsync(
            32,
            async _ => (await SendRequestAsync()).Status,
            async () =>
            {
                for (var i = 0; i < 5; i++)
                {
                    // A request whose session ends three times fails, so those of the last time are answered first, also on a busy machine.
                    await Task.Delay(200);
                    await SendRequestAsync();
                    await ExecuteAsync(EndSessions);
                }

                await Task.Delay(200);
            },
            Load.Pause);
        Assert.True(answers.All(status => status is 200), string.Join('\n', setup.Errors.Lines));
    }

    [Fact]
    public async Task DatabaseRestartUnderLoad_RequestsFailFastAndRecover()
    {
        await Load.SendDuringAsync(
            32,
            async _ =>
            {
                var answer = await SendRequestAsync();
                AssertBounded(answer);
                return answer.Status;
            },
            async () =>
            {
                await Task.Delay(200);
                await setup.Server.StopAsync();
                await setup.Server.StartAgainAsync();
                await AssertRecoversWithinTwoSecondsAsync();
            },
            Load.Pause);
    }

    [Fact]
    public async Task ClientDisconnects_CancelsItsStatement()
    {
        await using var locked = await setup.LockAsync();
        using (var client = await RawHttp.ConnectAsync(setup.Service.Url))
        {
            var request = $"GET {TestService.AccountPath(setup.Agent.ToString())} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {Tokens.OfOrganization(DatabaseFixture.Org)}\r\n\r\n";
            await client.GetStream().WriteAsync(System.Text.Encoding.ASCII.GetBytes(request));
            await Eventually.HoldsAsync(async () => await setup.CountActiveAsync() is 1, TimeSpan.FromSeconds(1));
        }

        // Long before any timeout would end it.
        await Eventually.HoldsAsync(async () => await setup.CountActiveAsync() is 0, TimeSpan.FromSeconds(1));
    }

    private static string EndSessions =>
        $"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{TestDatabase.ServiceLogin}'";

    /// <summary>Fails unless the service works before the fault, answers within its timeout during the fault, and recovers afterwards.</summary>
    private async Task AssertBoundedAsync(Func<Task> begin, Func<Task> end)
    {
        await AssertRecoversWithinTwoSecondsAsync();
        await begin();
        try
        {
            // More than fit into the statements in flight.
            var answers = Task.WhenAll(Enumerable.Range(0, 200).Select(async _ =>
            {
                var started = Stopwatch.GetTimestamp();
                AssertBounded(await SendRequestAsync());
                Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 5);
            }));
            await Eventually.HoldsAsync(async () => await HealthAsync("ready") is 503, TimeSpan.FromSeconds(2.5));
            Assert.Equal(200, await HealthAsync("live"));
            await answers;
            Assert.Equal(500, (await SendRequestAsync()).Status);
        }
        finally
        {
            await end();
        }

        await AssertRecoversWithinTwoSecondsAsync();
    }

    private Task AssertRecoversWithinTwoSecondsAsync() => Eventually.HoldsAsync(
        async () => (await SendRequestAsync()).Status is 200 && await HealthAsync("ready") is 200, TimeSpan.FromSeconds(2));

    private static void AssertBounded(Answer answer)
    {
        if (answer.Status is not 200)
        {
            Assert.Equal((500, InternalError), (answer.Status, answer.Body));
        }
    }

    private async Task<int> HealthAsync(string path) => (await setup.Service.SendAsync("GET", $"/health/{path}")).Status;

    private Task<Answer> SendRequestAsync(TestService? service = null) =>
        (service ?? setup.Service).GetAccountAsync(setup.Agent, Tokens.OfOrganization(DatabaseFixture.Org));

    private Task ExecuteAsync(string sql) => setup.Database.ExecuteAsync(sql);
}
