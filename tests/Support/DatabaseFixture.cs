using Microsoft.Extensions.Logging;
using Npgsql;

namespace CalcomAccounts.Tests.Support;

/// <summary>A service on a database server that no other class of tests uses, so that it can be stopped, frozen and broken.</summary>
public sealed class DatabaseFixture : IAsyncLifetime
{
    internal static Guid Org { get; } = Guid.NewGuid();

    internal PostgresServer Server { get; private set; } = null!;

    internal TestDatabase Database { get; private set; } = null!;

    internal TestService Service { get; private set; } = null!;

    internal CapturedLog Errors { get; } = new(LogLevel.Error);

    internal Guid Agent { get; private set; }

    public async Task InitializeAsync()
    {
        Server = await PostgresServer.StartAsync();
        Database = await TestDatabase.OfTablesAsync(Server);
        Service = await TestService.StartAsync(Database.ServiceConnectionString, configure: builder => builder.Logging.AddProvider(Errors));
        Agent = await Database.AddAgentAsync(Org);
    }

    /// <summary>Lets statements on agents wait in the server until it is disposed.</summary>
    internal async Task<IAsyncDisposable> LockAsync(string table = "agents")
    {
        var connection = new NpgsqlConnection(Database.OwnerConnectionString + ";Pooling=false");
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand($"begin; lock table calcom.{table}", connection);
        await command.ExecuteNonQueryAsync();
        return connection;
    }

    /// <summary>How many statements of the service's are in the server, but for probes.</summary>
    internal async Task<long> CountActiveAsync() => (await Database.QueryAsync<long>(
        $"select count(*) from pg_stat_activity where usename = '{TestDatabase.ServiceLogin}' and state = 'active' and query not like '-- probe%'"))[0];

    public async Task DisposeAsync()
    {
        Errors.Dispose();
        await Service.DisposeAsync();
        await Server.DisposeAsync();
    }
}
