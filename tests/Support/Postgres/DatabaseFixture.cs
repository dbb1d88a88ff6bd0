using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>A service on a server that no other test class uses, so that tests may stop and break it.</summary>
public sealed class DatabaseFixture : IAsyncLifetime
{
    internal static Guid Org { get; } = Guid.NewGuid();

    internal PostgresServer Server { get; private set; } = null!;

    internal TestDatabase Database { get; private set; } = null!;

    internal TestService Service { get; private set; } = null!;

    internal CapturedLog Errors { get; } = new(LogLevel.Error);

    internal Guid Agent { get; private set; }

    public async ValueTask InitializeAsync()
    {
        Server = await PostgresServer.StartAsync();
        Database = await TestDatabase.OfTablesAsync(Server);
        Service = await TestService.StartAsync(Database.ServiceConnectionString, configure: builder => builder.Logging.AddProvider(Errors));
        Agent = await Database.AddAgentAsync(Org);
    }

    /// <summary>Locks the table until the lock is disposed, so that statements on it wait.</summary>
    internal Task<IAsyncDisposable> LockAsync(string table = "agents") => Database.LockAsync(table);

    /// <summary>The number of active statements of the service, without probes.</summary>
    internal async Task<long> CountActiveAsync() => (await Database.QueryAsync<long>(
        $"select count(*) from pg_stat_activity where usename = '{TestDatabase.ServiceLogin}' and datname = current_database() and state = 'active' and query not like '-- probe%'"))[0];

    public async ValueTask DisposeAsync()
    {
        Errors.Dispose();
        await Service.DisposeAsync();
        await Server.DisposeAsync();
    }
}
