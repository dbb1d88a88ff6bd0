using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using CalcomAccounts.Infrastructure.Development;
using Docker.DotNet;
using DotNet.Testcontainers.Builders;
using Npgsql;
using Testcontainers.PostgreSql;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>A PostgreSQL server: of the programs that are chosen, else a container if a Docker engine answers, else the programs of this machine.</summary>
internal sealed class PostgresServer : IAsyncDisposable
{
    private readonly IAsyncDisposable _server;
    private readonly Lazy<Task<string>> _migratedTemplate;

    private PostgresServer(IAsyncDisposable server, string connectionString, string description)
    {
        (_server, ConnectionString, Description) = (server, connectionString, description);
        _migratedTemplate = new(() => TestDatabase.CreateMigratedTemplateAsync(this));
    }

    /// <summary>Connects as the superuser.</summary>
    public string ConnectionString { get; }

    public string Description { get; }

    public bool IsTestcontainers => _server is PostgreSqlContainer;

    /// <summary>Starts a server. The ports of a container stay the same when it is restarted.</summary>
    public static async Task<PostgresServer> StartAsync()
    {
        var (container, whyNot) = await TryStartContainerAsync();
        if (container is not null)
        {
            return new(container, container.GetConnectionString(), $"Testcontainers, image {container.Image.FullName}");
        }

        var embedded = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        return new(embedded, embedded.ConnectionString, $"{embedded.Description}; no container: {whyNot}");
    }

    /// <summary>The connection string of a new, empty database.</summary>
    public Task<string> CreateDatabaseAsync() => CreateDatabaseAsync(ConnectionString);

    /// <summary>The connection string of a new database with the service's tables: a copy of one that was migrated, which takes less time than a migration.</summary>
    public async Task<string> CreateMigratedDatabaseAsync() => await CreateDatabaseAsync(ConnectionString, await _migratedTemplate.Value);

    public static async Task<string> CreateDatabaseAsync(string superuserConnectionString, string template = "template1")
    {
        var name = $"test_{Guid.NewGuid():N}";
        await using var connection = new NpgsqlConnection(superuserConnectionString);
        await connection.OpenAsync();

        // Copying files takes half the time of the default; PostgreSQL 14 has no such option.
        var strategy = connection.PostgreSqlVersion.Major < 15 ? "" : " strategy file_copy";
        await using var command = new NpgsqlCommand($"create database {name} template {template}{strategy}", connection);
        await command.ExecuteNonQueryAsync();
        return new NpgsqlConnectionStringBuilder(superuserConnectionString) { Database = name }.ConnectionString;
    }

    /// <summary>Suspends every process of the server: connections stay open, but nothing answers.</summary>
    public Task FreezeAsync() => _server is PostgreSqlContainer container ? container.PauseAsync() : SignalAsync("STOP");

    public Task ThawAsync() => _server is PostgreSqlContainer container ? container.UnpauseAsync() : SignalAsync("CONT");

    public ValueTask DisposeAsync() => _server.DisposeAsync();

    /// <summary>Terminates every session and the server.</summary>
    public async Task StopAsync()
    {
        if (_server is PostgreSqlContainer container)
        {
            // Docker would send a signal on which PostgreSQL waits for its clients.
            await container.ExecAsync(["sh", "-c", "kill -INT 1"]);
            await container.StopAsync();
            return;
        }

        await RunAsync($"pg_ctl stop --silent --wait --mode fast --pgdata '{Data}'");
    }

    public async Task StartAgainAsync()
    {
        if (_server is PostgreSqlContainer container)
        {
            await container.StartAsync();
        }
        else
        {
            await RunAsync($"pg_ctl start --silent --wait --pgdata '{Data}' --log '{Data}/log'");
        }

        // Only the pools of the tests; the service has to recover by itself.
        NpgsqlConnection.ClearAllPools();
    }

    private string Data => new NpgsqlConnectionStringBuilder(ConnectionString).Host!;

    private int Postmaster => int.Parse(File.ReadLines($"{Data}/postmaster.pid").First(), CultureInfo.InvariantCulture);

    /// <summary>Where another server on the same machine has to listen, and on which port it is reached from here.</summary>
    public (string Listen, int Listening, int Reached) Port(int port)
    {
        if (_server is PostgreSqlContainer container)
        {
            return ("*", port, container.GetMappedPublicPort(port));
        }

        var free = FreePort();
        return ("127.0.0.1", free, free);
    }

    /// <summary>A folder on the machine of the server, deleted with the server.</summary>
    public string Folder => _server is PostgreSqlContainer ? "/tmp" : Data;

    /// <summary>Lets every user of this machine connect, as with a container; by default only the server's user may enter the folder of the socket.</summary>
    public Task OpenToAllUsersAsync() => _server is PostgreSqlContainer ? Task.CompletedTask : RunAsync($"chmod o+x '{Data}'");

    /// <summary>Runs a script on the machine of the server as the server's user, with its programs on the path.</summary>
    public async Task RunAsync(string script)
    {
        if (_server is PostgreSqlContainer container)
        {
            var result = await container.ExecAsync(["su", "postgres", "-s", "/bin/sh", "-c", $"set -e\nPATH={"$PATH:/usr/lib/postgresql/15/bin"}\n{script}"]);
            Assert.True(result.ExitCode is 0, result.Stderr);
            return;
        }

        var programs = ((EmbeddedPostgres)_server).Description.Split(" from ")[1];
        var asOwner = Environment.IsPrivilegedProcess ? $"setpriv --reuid $(stat -c %u '{Data}') --regid $(stat -c %g '{Data}') --clear-groups" : "";
        using var shell = Process.Start(new ProcessStartInfo("sh", ["-c", $"exec {asOwner} sh -ec \"$1\"", "sh", $"PATH='{programs}':$PATH\n{script}"])
        {
            RedirectStandardError = true,
            WorkingDirectory = "/",
        })!;
        var errors = await shell.StandardError.ReadToEndAsync();
        await shell.WaitForExitAsync();
        Assert.True(shell.ExitCode is 0, errors);
    }

    private Task SignalAsync(string signal)
    {
        // The postmaster first, as it starts the others.
        var postmaster = Postmaster;
        ServiceProcess.Signal(signal, postmaster);
        foreach (var process in ServiceProcess.ChildrenOf(postmaster))
        {
            ServiceProcess.Signal(signal, process);
        }

        return Task.CompletedTask;
    }

    private static async Task<(PostgreSqlContainer? Container, string? WhyNot)> TryStartContainerAsync()
    {
        if (PostgresLocator.ThisMachine.PostgresPrograms is not null)
        {
            return (null, $"{PostgresLocator.PostgresProgramsVariable} is set");
        }

        try
        {
            var container = new PostgreSqlBuilder(Environment.GetEnvironmentVariable("CALCOM_ACCOUNTS_POSTGRES_IMAGE") ?? "postgres:17")
                .WithPortBinding(FreePort(), PostgreSqlBuilder.PostgreSqlPort)
                .WithPortBinding(PostgresCluster.Ports[0], assignRandomHostPort: true)
                .WithPortBinding(PostgresCluster.Ports[1], assignRandomHostPort: true)
                .WithPortBinding(PostgresCluster.Ports[2], assignRandomHostPort: true)
                .Build();
            await container.StartAsync();
            return (container, null);
        }
        catch (Exception exception) when (exception is DockerUnavailableException or DockerApiException)
        {
            // Without Docker or the image, tests use the installed programs; in CI a test fails for that.
            return (null, exception.Message.Split('\n')[0].Trim());
        }
    }

    internal static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }
}
