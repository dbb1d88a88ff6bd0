using System.Globalization;
using CalcomAccounts.Infrastructure;
using DotNet.Testcontainers.Builders;
using Npgsql;
using Testcontainers.PostgreSql;

namespace CalcomAccounts.Tests;

/// <summary>The one PostgreSQL of a test run: a container where a Docker engine answers, else this machine's programs.</summary>
internal sealed class PostgresServer : IAsyncDisposable
{
    private readonly IAsyncDisposable _server;

    private PostgresServer(IAsyncDisposable server, string connectionString, string description) =>
        (_server, ConnectionString, Description) = (server, connectionString, description);

    /// <summary>Connects as the superuser.</summary>
    public string ConnectionString { get; }

    public string Description { get; }

    public bool IsTestcontainers => _server is PostgreSqlContainer;

    public static async Task<PostgresServer> StartAsync()
    {
        if (TryBuildContainer() is { } container)
        {
            await container.StartAsync();
            return new(container, container.GetConnectionString(), $"Testcontainers, image {container.Image.FullName}");
        }

        var embedded = await EmbeddedPostgres.StartAsync(CancellationToken.None);
        return new(embedded, embedded.ConnectionString, embedded.Description);
    }

    /// <summary>The connection string of a new, empty database.</summary>
    public async Task<string> CreateDatabaseAsync()
    {
        var name = $"test_{Guid.NewGuid():N}";
        await using var dataSource = NpgsqlDataSource.Create(ConnectionString);
        await using var command = dataSource.CreateCommand($"create database {name}");
        await command.ExecuteNonQueryAsync();
        return new NpgsqlConnectionStringBuilder(ConnectionString) { Database = name }.ConnectionString;
    }

    /// <summary>Stops every process of the server where it stands: connections stay, and nothing answers.</summary>
    public Task FreezeAsync() => _server is PostgreSqlContainer container ? container.PauseAsync() : SignalAsync("STOP");

    public Task ThawAsync() => _server is PostgreSqlContainer container ? container.UnpauseAsync() : SignalAsync("CONT");

    public ValueTask DisposeAsync() => _server.DisposeAsync();

    private async Task SignalAsync(string signal)
    {
        var data = new NpgsqlConnectionStringBuilder(ConnectionString).Host;
        var postmaster = int.Parse((await File.ReadAllLinesAsync($"{data}/postmaster.pid"))[0], CultureInfo.InvariantCulture);
        foreach (var process in ServiceProcess.ChildrenOf(postmaster).Append(postmaster))
        {
            ServiceProcess.Signal(signal, process);
        }
    }

    private static PostgreSqlContainer? TryBuildContainer()
    {
        try
        {
            return new PostgreSqlBuilder(Environment.GetEnvironmentVariable("CALCOM_ACCOUNTS_POSTGRES_IMAGE") ?? "postgres:17").Build();
        }
        catch (DockerUnavailableException)
        {
            return null;
        }
    }
}
