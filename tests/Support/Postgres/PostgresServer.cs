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

/// <summary>The one PostgreSQL of a test run: a container where a Docker engine answers, else this machine's programs.</summary>
internal sealed class PostgresServer : IAsyncDisposable
{
    private static readonly SemaphoreSlim s_sharing = new(1);
    private static PostgresServer? s_shared;
    private static int s_sharers;

    private readonly IAsyncDisposable _server;

    private PostgresServer(IAsyncDisposable server, string connectionString, string description) =>
        (_server, ConnectionString, Description) = (server, connectionString, description);

    /// <summary>Connects as the superuser.</summary>
    public string ConnectionString { get; }

    public string Description { get; }

    public bool IsTestcontainers => _server is PostgreSqlContainer;

    /// <summary>The server that all collections of tests share: started for the first of them, gone with the last.</summary>
    public static async Task<PostgresServer> ShareAsync(Action<PostgresServer> whenStarted)
    {
        await s_sharing.WaitAsync();
        try
        {
            if (s_shared is null)
            {
                s_shared = await StartAsync();
                whenStarted(s_shared);
            }

            s_sharers++;
            return s_shared;
        }
        finally
        {
            s_sharing.Release();
        }
    }

    public static async Task ReturnAsync()
    {
        await s_sharing.WaitAsync();
        try
        {
            if (--s_sharers is 0)
            {
                await s_shared!.DisposeAsync();
                s_shared = null;
            }
        }
        finally
        {
            s_sharing.Release();
        }
    }

    /// <summary>A server that nobody shares. In a container, its ports stay the same when it is started again.</summary>
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

    public static async Task<string> CreateDatabaseAsync(string superuserConnectionString)
    {
        var name = $"test_{Guid.NewGuid():N}";
        await using var dataSource = NpgsqlDataSource.Create(superuserConnectionString);
        await using var command = dataSource.CreateCommand($"create database {name}");
        await command.ExecuteNonQueryAsync();
        return new NpgsqlConnectionStringBuilder(superuserConnectionString) { Database = name }.ConnectionString;
    }

    /// <summary>Stops every process of the server where it stands: connections stay, and nothing answers.</summary>
    public Task FreezeAsync() => _server is PostgreSqlContainer container ? container.PauseAsync() : SignalAsync("STOP");

    public Task ThawAsync() => _server is PostgreSqlContainer container ? container.UnpauseAsync() : SignalAsync("CONT");

    public ValueTask DisposeAsync() => _server.DisposeAsync();

    /// <summary>Ends every session and the server itself.</summary>
    public async Task StopAsync()
    {
        if (_server is PostgreSqlContainer container)
        {
            // What Docker itself would send asks PostgreSQL to wait for its clients.
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

        // The tests' own; the service's pool is its own affair.
        NpgsqlConnection.ClearAllPools();
    }

    private string Data => new NpgsqlConnectionStringBuilder(ConnectionString).Host!;

    private int Postmaster => int.Parse(File.ReadLines($"{Data}/postmaster.pid").First(), CultureInfo.InvariantCulture);

    /// <summary>Where a port that a server is given on this one's machine can be reached from here, and where it has to listen.</summary>
    public (string Listen, int Listening, int Reached) Port(int port)
    {
        if (_server is PostgreSqlContainer container)
        {
            return ("*", port, container.GetMappedPublicPort(port));
        }

        var free = FreePort();
        return ("127.0.0.1", free, free);
    }

    /// <summary>A folder on the server's machine, which is gone with it.</summary>
    public string Folder => _server is PostgreSqlContainer ? "/tmp" : Data;

    /// <summary>Lets every user of this machine connect, as to a container: the folder of its socket is the server's own.</summary>
    public Task OpenToAllUsersAsync() => _server is PostgreSqlContainer ? Task.CompletedTask : RunAsync($"chmod o+x '{Data}'");

    /// <summary>Runs a script on the server's machine, as the user that it runs as, with its programs on the path.</summary>
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
        // First of all the one that starts the others.
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
            // A laptop without Docker, or without the image, tests on PostgreSQL's programs; CI does not let that pass.
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
