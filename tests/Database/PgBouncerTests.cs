using System.Net.Sockets;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Diagnostics;
using Dapper;
using Microsoft.Extensions.Logging;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>The service behind PgBouncer in transaction mode, with the connection string of docs/scaling.md.</summary>
public sealed class PgBouncerTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>, IAsyncLifetime
{
    private const int Sessions = 2;

    private readonly Guid _org = Guid.NewGuid();
    private TestDatabase _database = null!;

    // A separate database, as its sessions are terminated and its tables locked.
    public async ValueTask InitializeAsync() => _database = await TestDatabase.OfTablesAsync(fixture.Server);

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    [FactWith(PgBouncer.Program)]
    public async Task PgBouncer_EveryOutcome_IsReturned()
    {
        using var bouncer = await StartBouncerAsync();
        await using var service = await StartServiceAsync(bouncer);
        var account = await _database.AddOrgAccountAsync(_org, new());
        var agents = new[] { await _database.AddAgentAsync(_org), await _database.AddAgentAsync(_org, account), await _database.AddAgentAsync(_org) };
        await _database.AddKeyAsync(agents[0], new());

        foreach (var (agent, type) in agents.Zip(["agent", "org_linked", "none"]))
        {
            Assert.Contains($"\"type\":\"{type}\"", (await service.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Body, StringComparison.Ordinal);
        }

        Assert.Equal(404, (await service.GetAccountAsync(agents[0], Tokens.OfOrganization(Guid.NewGuid()))).Status);
        Assert.Equal(200, (await service.SendAsync("GET", "/health/ready")).Status);
    }

    [FactWith(PgBouncer.Program)]
    public async Task PgBouncer_SharedSessionsTerminated_NoRequestFails()
    {
        using var bouncer = await StartBouncerAsync();
        using var errors = new CapturedLog(LogLevel.Error);
        await using var one = await StartServiceAsync(bouncer, errors);
        await using var other = await StartServiceAsync(bouncer, errors);
        var agent = await _database.AddAgentAsync(_org);
        var sessions = new List<long>();
        var answers = await Load.SendDuringAsync(32, client => SendRequestAsync(client % 2 is 0 ? one : other), EndSessionsAsync, Load.Pause);
        Assert.True(answers.All(status => status is 200), string.Join('\n', errors.Lines.Distinct()));
        Assert.All(sessions, count => Assert.InRange(count, 1, Sessions));

        async Task EndSessionsAsync()
        {
            await Eventually.HoldsAsync(async () => await SendRequestAsync(one) is 200, TimeSpan.FromSeconds(5));
            for (var i = 0; i < 10; i++)
            {
                // A request whose session ends three times fails, so those of the last time are answered first, also on a busy machine.
                await Task.Delay(200);
                await Task.WhenAll(SendRequestAsync(one), SendRequestAsync(other));
                sessions.Add((await _database.QueryAsync<long>($"select count(pg_terminate_backend(pid)) from pg_stat_activity where {OfTheService}"))[0]);
            }

            await Task.Delay(200);
        }

        async Task<int> SendRequestAsync(TestService service) => (await service.GetAccountAsync(agent, Tokens.OfOrganization(_org))).Status;
    }

    [FactWith(PgBouncer.Program)]
    public async Task PgBouncer_QueryTimeoutEndsSession_RequestSucceeds()
    {
        using var bouncer = await StartBouncerAsync("query_timeout = 0.3");
        await using var service = await StartServiceAsync(bouncer);
        var agent = await _database.AddAgentAsync(_org);
        Task<Answer> response;
        await using (await _database.LockAsync("org_members"))
        {
            response = service.GetAccountAsync(agent, Tokens.OfOrganization(_org));
            await Task.Delay(700);
        }

        Assert.Equal(200, (await response).Status);
    }

    [FactWith(PgBouncer.Program)]
    public async Task PgBouncer_DocumentedLoginSettings_ReplaceStartupOptions()
    {
        // A separate login, as its settings are changed.
        var login = new NpgsqlConnectionStringBuilder(_database.ServiceConnectionString) { Username = $"login_{Guid.NewGuid():N}" };
        await _database.ExecuteAsync($"create role {login.Username} login password '{login.Password}' in role calcom_reader");
        await _database.ExecuteAsync(Docs.Block("docs/scaling.md", "sql", "alter role").Replace("calcom_service", login.Username, StringComparison.Ordinal));
        using var bouncer = await StartBouncerAsync(login: login);
        await using var connection = new NpgsqlConnection(ConnectionString(bouncer, Docs.ConnectionOptions("pgbouncer"), login));

        Assert.Equal("on 1500ms 1500ms", await connection.ExecuteScalarAsync<string>(
            "select concat_ws(' ', current_setting('default_transaction_read_only'), current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'))"));
    }

    // docs/scaling.md has migrate connect directly; a migration through PgBouncer must not lock out the next one.
    [FactWith(PgBouncer.Program)]
    public async Task PgBouncer_MigrationThroughIt_LeavesNoLockBehind()
    {
        var owner = new NpgsqlConnectionStringBuilder(await fixture.Server.CreateDatabaseAsync()) { Username = $"owner_{Guid.NewGuid():N}", Password = "only-in-tests" };
        await _database.ExecuteAsync($"create role {owner.Username} login createrole password '{owner.Password}'; alter database {owner.Database} owner to {owner.Username}");
        using var bouncer = await StartBouncerAsync(login: owner);

        Assert.NotEmpty(await DatabaseMigrator.MigrateAsync(ConnectionString(bouncer, "", owner), CancellationToken.None));
        Assert.Empty(await DatabaseMigrator.MigrateAsync(owner.ConnectionString, CancellationToken.None));
    }

    [FactWith(PgBouncer.Program)]
    public async Task PgBouncer_StartupOptions_AreRejectedAndCheckExplainsTheFix()
    {
        using var bouncer = await StartBouncerAsync();
        var check = Assert.Single((await DatabaseCheck.RunAsync(ConnectionString(bouncer, ""), isDistributed: false, CancellationToken.None)).Checks);
        Assert.Equal("unsupported startup parameter (SQLSTATE 08P01); behind PgBouncer the connection string needs Options=, as in docs/scaling.md", check.Detail);
        await using var service = await TestService.StartAsync(ConnectionString(bouncer, ""));

        Assert.Equal(500, (await service.GetAccountAsync(await _database.AddAgentAsync(_org), Tokens.OfOrganization(_org))).Status);
    }

    private string OfTheService =>
        $"usename = '{TestDatabase.ServiceLogin}' and datname = '{new NpgsqlConnectionStringBuilder(_database.OwnerConnectionString).Database}' and pid <> pg_backend_pid()";

    private async Task<PgBouncer> StartBouncerAsync(string setting = "", NpgsqlConnectionStringBuilder? login = null)
    {
        var bouncer = await PgBouncer.StartAsync(login ?? new(_database.ServiceConnectionString), Sessions, setting);
        await Eventually.HoldsAsync(() => Task.FromResult(IsListening(bouncer.Port)), TimeSpan.FromSeconds(5));
        return bouncer;
    }

    private Task<TestService> StartServiceAsync(PgBouncer bouncer, CapturedLog? errors = null) => TestService.StartAsync(
        ConnectionString(bouncer, Docs.ConnectionOptions("pgbouncer")),
        configure: builder =>
        {
            if (errors is not null)
            {
                builder.Logging.AddProvider(errors);
            }
        });

    private string ConnectionString(PgBouncer bouncer, string options, NpgsqlConnectionStringBuilder? login = null)
    {
        login ??= new(_database.ServiceConnectionString);
        return $"Host=127.0.0.1;{options};Port={bouncer.Port};Database={login.Database};Username={login.Username};Password={login.Password}";
    }

    private static bool IsListening(int port)
    {
        try
        {
            using var client = new TcpClient("127.0.0.1", port);
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }
}
