using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using CalcomAccounts.Infrastructure.Database;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Development;

/// <summary>
/// A private, temporary PostgreSQL server for development and tests: by the programs installed on this machine, or else a Docker
/// container. Its databases are empty, and it is stopped and deleted when this process ends, even when it is killed
/// (docs/adr/0012-embedded-postgresql.md).
/// </summary>
public sealed partial class EmbeddedPostgres : IAsyncDisposable
{
    private const string DefaultImage = "postgres:17";
    private const string ContainerPort = "5432";

    private static readonly string s_requirement = $"PostgreSQL {ServerVersion.Oldest} or newer";

    private readonly Process _reaper;

    private EmbeddedPostgres(Process reaper, string connectionString, string description, string psqlCommand) =>
        (_reaper, ConnectionString, Description, PsqlCommand) = (reaper, connectionString, description, psqlCommand);

    /// <summary>For the database <c>postgres</c>, as the superuser <c>postgres</c>.</summary>
    public string ConnectionString { get; }

    /// <summary>For messages: the version and folder of the programs, or the container's image.</summary>
    public string Description { get; }

    /// <summary>A shell command that opens psql on this server; it has no password in it.</summary>
    public string PsqlCommand { get; }

    /// <summary>Starts a server and waits until it accepts connections.</summary>
    /// <param name="progress">Called with a line of text before each step; may be null.</param>
    /// <param name="cancellationToken">Cancels the start.</param>
    /// <exception cref="StartupException">Neither PostgreSQL nor Docker was found, or the server did not start.</exception>
    public static Task<EmbeddedPostgres> StartAsync(Action<string>? progress, CancellationToken cancellationToken) =>
        StartAsync(PostgresLocator.ThisMachine, TimeSpan.FromSeconds(30), progress, cancellationToken);

    internal static async Task<EmbeddedPostgres> StartAsync(
        PostgresLocator locator, TimeSpan containerTimeout, Action<string>? progress, CancellationToken cancellationToken)
    {
        string? dockerError = null;

        // The reaper is a POSIX shell.
        if (!OperatingSystem.IsWindows())
        {
            if (await FindProgramsAsync(locator, cancellationToken) is { } programs)
            {
                return await StartProgramsAsync(programs, locator.UnprivilegedCommandPrefix(), progress, cancellationToken);
            }

            if (locator.Docker is { } docker)
            {
                (var version, dockerError) = await TryRunAsync([docker, "version", "--format", "{{.Server.Version}}"], cancellationToken);
                if (version is not null)
                {
                    return await StartContainerAsync(docker, locator.PostgresImage ?? DefaultImage, containerTimeout, progress, cancellationToken);
                }
            }
        }

        throw new StartupException(
            $"no database: install {s_requirement} (initdb and pg_ctl have to be on PATH or where packages install them), or start Docker{(dockerError is null ? "" : $" ({dockerError})")}, or set {ConnectionStrings.Key}");
    }

    /// <summary>Stops the server and deletes its data.</summary>
    public async ValueTask DisposeAsync()
    {
        _reaper.StandardInput.Close();
        await _reaper.StandardOutput.ReadToEndAsync();
        _reaper.Dispose();
    }

    private static async Task<EmbeddedPostgres> StartProgramsAsync(
        Programs programs, string[] commandPrefix, Action<string>? progress, CancellationToken cancellationToken)
    {
        var description = $"PostgreSQL {programs.Version} from {programs.Folder}";

        // Not in TMPDIR: the path of a Unix socket must be short, and root's TMPDIR may not be accessible to the user below.
        var data = $"/tmp/calcom-accounts-{RandomNumberGenerator.GetHexString(12, lowercase: true)}";
        string[] pgCtl = [.. commandPrefix, $"{programs.Folder}/pg_ctl", "--pgdata", data];

        var reaper = StartReaper(
            commandPrefix, $"'{programs.Folder}/pg_ctl' stop --silent --mode immediate --pgdata '{data}'; rm -rf '{data}'");
        try
        {
            progress?.Invoke($"{description}: initializing the data directory");
            await RunAsync(
                [.. commandPrefix, $"{programs.Folder}/initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust",
                    "--encoding", "UTF8", "--no-locale", "--no-sync"],
                cancellationToken);

            // Only reachable through a socket in a folder of its owner's. The data is temporary, so durability is switched off.
            await File.AppendAllTextAsync(
                $"{data}/postgresql.conf",
                $"""
                listen_addresses = ''
                unix_socket_directories = '{data}'
                fsync = off
                synchronous_commit = off
                full_page_writes = off

                """,
                cancellationToken);
            progress?.Invoke("starting the server");
            await RunAsync([.. pgCtl, "start", "--silent", "--wait", "--log", $"{data}/log"], cancellationToken);
        }
        catch (StartupException exception) when (File.Exists($"{data}/log"))
        {
            var log = (await File.ReadAllTextAsync($"{data}/log", cancellationToken)).ReplaceLineEndings(" ").Trim();
            reaper.StandardInput.Close();
            throw new StartupException($"{exception.Message}; log: {log}", exception);
        }
        catch
        {
            reaper.StandardInput.Close();
            throw;
        }

        return new(
            reaper,
            $"Host={data};Username=postgres;Database=postgres",
            description,
            $"psql 'host={data} user=postgres dbname=postgres'");
    }

    private static async Task<EmbeddedPostgres> StartContainerAsync(
        string docker, string image, TimeSpan timeout, Action<string>? progress, CancellationToken cancellationToken)
    {
        var description = $"PostgreSQL in Docker, image {image}";
        var name = $"calcom-accounts-{RandomNumberGenerator.GetHexString(12, lowercase: true)}";
        var password = RandomNumberGenerator.GetHexString(32);

        var reaper = StartReaper([], $"'{docker}' rm --force --volumes '{name}'");
        try
        {
            progress?.Invoke($"{description}: starting the container, after downloading the image the first time");
            try
            {
                await RunAsync(
                    [docker, "run", "--detach", "--name", name, "--publish", $"127.0.0.1::{ContainerPort}",
                        "--env", "POSTGRES_PASSWORD", image],
                    cancellationToken,
                    ("POSTGRES_PASSWORD", password));
            }
            catch (StartupException exception)
            {
                throw new StartupException(
                    $"{exception.Message}; if Docker can't download the image, set {PostgresLocator.PostgresImageVariable} to another one, or install {s_requirement}", exception);
            }

            var address = await RunAsync([docker, "port", name, ContainerPort], cancellationToken);
            var connectionString =
                $"Host=127.0.0.1;Port={address[(address.LastIndexOf(':') + 1)..].Trim()};Username=postgres;Password={password};Database=postgres";
            progress?.Invoke("waiting until the server accepts connections");
            await WaitUntilReadyAsync(connectionString, timeout, cancellationToken);
            return new(
                reaper,
                connectionString,
                description,
                $"docker exec --interactive --tty {name} psql --username postgres");
        }
        catch
        {
            reaper.StandardInput.Close();
            throw;
        }
    }

    private static async Task WaitUntilReadyAsync(
        string connectionString, TimeSpan timeout, CancellationToken cancellationToken)
    {
        var started = Stopwatch.GetTimestamp();
        while (true)
        {
            try
            {
                await using var connection = new NpgsqlConnection(connectionString + ";Pooling=false;Timeout=5");
                await connection.OpenAsync(cancellationToken);
                return;
            }
            catch (NpgsqlException) when (Stopwatch.GetElapsedTime(started) < timeout)
            {
                await Task.Delay(TimeSpan.FromMilliseconds(100), cancellationToken);
            }
            catch (NpgsqlException exception)
            {
                throw new StartupException(
                    $"the PostgreSQL container did not accept connections within {timeout.TotalSeconds} seconds: {DatabaseErrors.Describe(exception)}");
            }
        }
    }

    /// <summary>
    /// Starts a shell in the background that cleans up when its standard input is closed. The kernel closes it when this process ends, even
    /// when it is killed. The shell ignores Ctrl-C, so that requests in flight are answered before the server stops; and it runs in a
    /// session of its own, so that it survives when this process's tree or group is killed. It cleans up a second time after 5 seconds, because
    /// a server that was just being started may still have come up. It closes its output after the first time.
    /// </summary>
    private static Process StartReaper(string[] commandPrefix, string cleanUp) => Start(
        [.. commandPrefix, "sh", "-c", $"trap '' INT TERM HUP; exec 3<&0; $(command -v setsid) sh -c \"cat <&3; {cleanUp}; exec >&-; sleep 5; {cleanUp}\" 2>/dev/null &"]);

    private static async Task<Programs?> FindProgramsAsync(PostgresLocator locator, CancellationToken cancellationToken)
    {
        Programs? newest = null;
        foreach (var folder in locator.PostgresFolders().Where(folder => File.Exists($"{folder}/initdb") && File.Exists($"{folder}/pg_ctl")))
        {
            if (await TryRunAsync([$"{folder}/initdb", "--version"], cancellationToken) is ({ } answer, _)
                && VersionNumber.Match(answer) is { Success: true, Value: var version }
                && int.Parse(version.Split('.')[0], CultureInfo.InvariantCulture) is var major
                && major >= ServerVersion.Oldest
                && (newest is null || major > newest.MajorVersion))
            {
                newest = new(folder, version, major);
            }
        }

        return newest;
    }

    private static async Task<(string? Output, string? Error)> TryRunAsync(string[] command, CancellationToken cancellationToken)
    {
        try
        {
            return (await RunAsync(command, cancellationToken), null);
        }
        catch (StartupException exception)
        {
            return (null, exception.Message);
        }
    }

    private static async Task<string> RunAsync(
        string[] command, CancellationToken cancellationToken, params (string Name, string Value)[] environment)
    {
        using var process = Start(command, environment);
        process.StandardInput.Close();
        var output = process.StandardOutput.ReadToEndAsync(cancellationToken);
        var errors = process.StandardError.ReadToEndAsync(cancellationToken);
        await process.WaitForExitAsync(cancellationToken);
        return process.ExitCode == 0
            ? await output
            : throw new StartupException(
                $"{string.Join(' ', command)} failed: {(await errors).ReplaceLineEndings(" ").Trim()}");
    }

    private static Process Start(string[] command, params (string Name, string Value)[] environment)
    {
        var start = new ProcessStartInfo(command[0], command[1..])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = "/",
        };
        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        try
        {
            return Process.Start(start)!;
        }
        catch (Win32Exception exception)
        {
            throw new StartupException($"can't run {command[0]}: {exception.Message}", exception);
        }
    }

    [GeneratedRegex(@"\d+(\.\d+)*")]
    private static partial Regex VersionNumber { get; }

    private sealed record Programs(string Folder, string Version, int MajorVersion);
}
