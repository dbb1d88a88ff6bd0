using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using CalcomAccounts.Infrastructure.Database;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Development;

/// <summary>
/// A private, throw-away PostgreSQL for development and tests: this machine's own programs, else a Docker container.
/// It is empty at first, and gone with the process that started it, however that process ends.
/// </summary>
public sealed partial class EmbeddedPostgres : IAsyncDisposable
{
    private const string DefaultImage = "postgres:17";
    private const string ContainerPort = "5432";

    private static readonly string s_wanted = $"PostgreSQL {ServerVersion.Oldest} or newer";

    private readonly Process _reaper;

    private EmbeddedPostgres(Process reaper, string connectionString, string description, string psqlCommand) =>
        (_reaper, ConnectionString, Description, PsqlCommand) = (reaper, connectionString, description, psqlCommand);

    /// <summary>Connects to database <c>postgres</c> as the superuser <c>postgres</c>.</summary>
    public string ConnectionString { get; }

    /// <summary>What runs, for a person: the programs' version and place, or the image.</summary>
    public string Description { get; }

    /// <summary>A shell command that opens psql on <see cref="ConnectionString"/>; it holds no password.</summary>
    public string PsqlCommand { get; }

    /// <summary>Starts it and waits until it answers.</summary>
    /// <param name="progress">Told what is done next, for a person who waits; nobody may.</param>
    /// <param name="cancellationToken">Gives the start up.</param>
    /// <exception cref="StartupException">There is neither a PostgreSQL nor a Docker here, or it did not start.</exception>
    public static Task<EmbeddedPostgres> StartAsync(Action<string>? progress, CancellationToken cancellationToken) =>
        StartAsync(PostgresLocator.This, TimeSpan.FromSeconds(30), progress, cancellationToken);

    internal static async Task<EmbeddedPostgres> StartAsync(
        PostgresLocator machine, TimeSpan containerTimeout, Action<string>? progress, CancellationToken cancellationToken)
    {
        string? whyNoDocker = null;

        // The reaper is a POSIX shell.
        if (!OperatingSystem.IsWindows())
        {
            if (await FindProgramsAsync(machine, cancellationToken) is { } programs)
            {
                return await StartProgramsAsync(programs, machine.UnprivilegedUser(), progress, cancellationToken);
            }

            if (machine.Docker is { } docker)
            {
                (var version, whyNoDocker) = await TryRunAsync([docker, "version", "--format", "{{.Server.Version}}"], cancellationToken);
                if (version is not null)
                {
                    return await StartContainerAsync(docker, machine.PostgresImage ?? DefaultImage, containerTimeout, progress, cancellationToken);
                }
            }
        }

        throw new StartupException(
            $"no database: install {s_wanted} (its initdb and pg_ctl are looked for on PATH and where packages put them), or start Docker{(whyNoDocker is null ? "" : $" ({whyNoDocker})")}, or set {ConnectionStrings.Key}");
    }

    /// <summary>Stops the server and deletes its data.</summary>
    public async ValueTask DisposeAsync()
    {
        _reaper.StandardInput.Close();
        await _reaper.StandardOutput.ReadToEndAsync();
        _reaper.Dispose();
    }

    private static async Task<EmbeddedPostgres> StartProgramsAsync(
        Programs programs, string[] asUser, Action<string>? progress, CancellationToken cancellationToken)
    {
        var description = $"PostgreSQL {programs.Version} from {programs.Folder}";

        // Not TMPDIR: a socket's path has to be short, and root's TMPDIR may be closed to the user below.
        var data = $"/tmp/calcom-accounts-{RandomNumberGenerator.GetHexString(12, lowercase: true)}";
        string[] pgCtl = [.. asUser, $"{programs.Folder}/pg_ctl", "--pgdata", data];

        var reaper = StartReaper(
            asUser, $"'{programs.Folder}/pg_ctl' stop --silent --mode immediate --pgdata '{data}'; rm -rf '{data}'");
        try
        {
            progress?.Invoke($"{description}: making its files");
            await RunAsync(
                [.. asUser, $"{programs.Folder}/initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust",
                    "--encoding", "UTF8", "--no-locale", "--no-sync"],
                cancellationToken);

            // Reachable through a socket in a folder that only its owner can enter; durability is of no use to it.
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
            progress?.Invoke("starting it");
            await RunAsync([.. pgCtl, "start", "--silent", "--wait", "--log", $"{data}/log"], cancellationToken);
        }
        catch (StartupException exception) when (File.Exists($"{data}/log"))
        {
            var log = (await File.ReadAllTextAsync($"{data}/log", cancellationToken)).ReplaceLineEndings(" ").Trim();
            reaper.StandardInput.Close();
            throw new StartupException($"{exception.Message} Its log: {log}", exception);
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
            progress?.Invoke($"{description}: starting it, after a download the first time");
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
                    $"{exception.Message}; where Docker can't get the image, name one in {PostgresLocator.PostgresImageVariable}, or install {s_wanted}", exception);
            }

            var address = await RunAsync([docker, "port", name, ContainerPort], cancellationToken);
            var connectionString =
                $"Host=127.0.0.1;Port={address[(address.LastIndexOf(':') + 1)..].Trim()};Username=postgres;Password={password};Database=postgres";
            progress?.Invoke("waiting for it to answer");
            await WaitUntilAnsweredAsync(connectionString, timeout, cancellationToken);
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

    private static async Task WaitUntilAnsweredAsync(
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
                    $"the PostgreSQL container did not answer within {timeout.TotalSeconds} seconds: {ConnectionStrings.Explain(exception)}");
            }
        }
    }

    /// <summary>
    /// A shell in the background that cleans up when its standard input ends, which the kernel sees to even when this
    /// process is killed. It ignores Ctrl-C, so that requests in flight are answered before the database goes; a child
    /// of nobody in a session of its own, it outlives the killing of this process's whole tree or group. It cleans up twice, as
    /// what was being started when this process was killed goes on for a moment; its output ends with the first time.
    /// </summary>
    private static Process StartReaper(string[] asUser, string cleanUp) => Start(
        [.. asUser, "sh", "-c", $"trap '' INT TERM HUP; exec 3<&0; $(command -v setsid) sh -c \"cat <&3; {cleanUp}; exec >&-; sleep 5; {cleanUp}\" 2>/dev/null &"]);

    private static async Task<Programs?> FindProgramsAsync(PostgresLocator machine, CancellationToken cancellationToken)
    {
        Programs? newest = null;
        foreach (var folder in machine.PostgresFolders().Where(folder => File.Exists($"{folder}/initdb") && File.Exists($"{folder}/pg_ctl")))
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

    private static async Task<(string? Output, string? WhyNot)> TryRunAsync(string[] command, CancellationToken cancellationToken)
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
