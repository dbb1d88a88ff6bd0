using System.Globalization;
using CalcomAccounts.Infrastructure;
using Docker.DotNet;
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
        var (container, whyNot) = await TryStartContainerAsync();
        if (container is not null)
        {
            return new(container, container.GetConnectionString(), $"Testcontainers, image {container.Image.FullName}");
        }

        var embedded = await EmbeddedPostgres.StartAsync(CancellationToken.None);
        return new(embedded, embedded.ConnectionString, $"{embedded.Description}; no container: {whyNot}");
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

    private static async Task<(PostgreSqlContainer? Container, string? WhyNot)> TryStartContainerAsync()
    {
        try
        {
            var container = new PostgreSqlBuilder(Environment.GetEnvironmentVariable("CALCOM_ACCOUNTS_POSTGRES_IMAGE") ?? "postgres:17").Build();
            await container.StartAsync();
            return (container, null);
        }
        catch (Exception exception) when (exception is DockerUnavailableException or DockerApiException)
        {
            // A laptop without Docker, or without the image, tests on PostgreSQL's programs; CI does not let that pass.
            return (null, exception.Message.Split('\n')[0].Trim());
        }
    }
}
