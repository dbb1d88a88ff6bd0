using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Development;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>The PostgreSQL of <c>dotnet run</c>: where its programs are found, how failures are reported, and that nothing is left behind.</summary>
public sealed class EmbeddedPostgresTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>, IDisposable
{
    private const string FailingInitdb = "case $1 in --version) echo 'initdb (PostgreSQL) 16.2';; *) mkdir $2; echo one >&2; echo two >&2; exit 1;; esac";
    private const string WorkingInitdb = "case $1 in --version) echo 'initdb (PostgreSQL) 16.2';; *) mkdir $2;; esac";
    private const string FailingPgCtl = "[ $3 = start ] && printf 'first\\nsecond\\n' > $7; echo 'could not start' >&2; exit 1";

    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(30);

    private readonly string _root = $"/tmp/calcom-accounts-locator-{RandomNumberGenerator.GetHexString(12, lowercase: true)}";

    private string DockerLog => $"{_root}/docker.log";

    public void Dispose()
    {
        if (Directory.Exists(_root))
        {
            Directory.Delete(_root, recursive: true);
        }
    }

    [Theory]
    [InlineData("path/bin")]
    [InlineData("usr/lib/postgresql/16/bin")]
    [InlineData("usr/pgsql-16/bin")]
    [InlineData("opt/homebrew/opt/postgresql@16/bin")]
    [InlineData("usr/local/opt/postgresql@16/bin")]
    [InlineData("Applications/Postgres.app/Contents/Versions/16/bin")]
    [InlineData("Library/PostgreSQL/16/bin")]
    public async Task ProgramsOnPathOrInPackageFolder_AreFound(string folder)
    {
        await InstallServerAsync(folder, FailingInitdb, "exit 1");

        Assert.StartsWith($"{_root}/{folder}/initdb --pgdata /tmp/", await GetStartErrorAsync(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("usr/other-16/bin")]
    [InlineData("usr/local/opt/mysql@16/bin")]
    [InlineData("opt/homebrew/opt/mysql@16/bin")]
    [InlineData("usr/lib/postgresql/16")]
    public async Task ProgramsInOtherFolder_AreNotFound(string folder)
    {
        await InstallServerAsync(folder, FailingInitdb, "exit 1");

        Assert.StartsWith("no database: install PostgreSQL 14 or newer", await GetStartErrorAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task SeveralVersions_NewestUsableIsTaken()
    {
        await InstallServerAsync("path/bin", Version("15.4"), "exit 1");
        await InstallServerAsync("usr/lib/postgresql/13/bin", Version("13.9"), "exit 1");
        await InstallServerAsync("usr/lib/postgresql/16/bin", FailingInitdb, "exit 1");
        await InstallServerAsync("usr/lib/postgresql/18/bin", Version("18.0"), pgCtl: null);
        await InstallServerAsync("usr/lib/postgresql/19/bin", initdb: null, "exit 1");
        await InstallServerAsync("usr/lib/postgresql/20/bin", "echo 'initdb (PostgreSQL) 20.0'; exit 1", "exit 1");
        await InstallServerAsync("usr/lib/postgresql/21/bin", "echo what", "exit 1");
        await InstallServerAsync("usr/lib/postgresql/22/bin", initdb: null, "exit 1");
        await InstallAsync("usr/lib/postgresql/22/bin/initdb", Version("22.0"), mode: "400");
        await InstallServerAsync("usr/pgsql-16/bin", Version("16.10"), "exit 1");

        Assert.StartsWith($"{_root}/usr/lib/postgresql/16/bin/initdb ", await GetStartErrorAsync(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("13.99", false)]
    [InlineData("14", true)]
    [InlineData("14beta1", true)]
    public async Task VersionOlderThan14_IsNotUsed(string version, bool found)
    {
        await InstallServerAsync("path/bin", Version(version), "exit 1");

        Assert.Equal(!found, (await GetStartErrorAsync()).StartsWith("no database: ", StringComparison.Ordinal));
    }

    [Fact]
    public async Task NeitherPostgresNorDocker_ExplainsTheOptions()
    {
        var error = await GetStartErrorAsync();

        Assert.Contains("PATH", error, StringComparison.Ordinal);
        Assert.Contains("start Docker", error, StringComparison.Ordinal);
        Assert.Contains("ConnectionStrings:CalcomAccounts", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task InitdbFails_ReportsItsOutputInOneLineAndRemovesTheFolder()
    {
        await InstallServerAsync("path/bin", FailingInitdb, "exit 1");

        var error = await GetStartErrorAsync();

        var match = Regex.Match(error, "^.* --pgdata (/tmp/calcom-accounts-[0-9a-f]{12}) --username postgres .* failed: one two$");
        Assert.True(match.Success, error);
        await AssertEventuallyGoneAsync(match.Groups[1].Value);
    }

    [Fact]
    public async Task ServerStartFails_ReportsItsLogAndRemovesTheFolder()
    {
        await InstallServerAsync("path/bin", WorkingInitdb, FailingPgCtl);

        var error = await GetStartErrorAsync();

        var match = Regex.Match(error, "pg_ctl --pgdata (/tmp/calcom-accounts-[0-9a-f]{12}) start --silent --wait --log .* failed: could not start; log: first second$");
        Assert.True(match.Success, error);
        await AssertEventuallyGoneAsync(match.Groups[1].Value);
    }

    [Fact]
    public async Task ProgramNotExecutable_IsNamed()
    {
        await InstallServerAsync("path/bin", WorkingInitdb, pgCtl: null);
        await InstallAsync("path/bin/pg_ctl", "exit 0", mode: "400");

        Assert.StartsWith($"can't run {_root}/path/bin/pg_ctl: ", await GetStartErrorAsync(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true, "root:x:0:0\nnobody:x:65534:65533\npostgres:x:101:102", "setpriv --reuid 101 --regid 102 --clear-groups --")]
    [InlineData(true, "root:x:0:0\nnobody:x:65534:65533", "setpriv --reuid 65534 --regid 65533 --clear-groups --")]
    [InlineData(true, "root:x:0:0\npostgresql:x:1:1", null)]
    [InlineData(false, "postgres:x:101:102", "")]
    public async Task UnprivilegedUser_ForRoot_IsPostgresOrNobody(bool isPrivileged, string users, string? expectedCommand)
    {
        Directory.CreateDirectory($"{_root}/etc");
        await File.WriteAllTextAsync($"{_root}/etc/passwd", users);
        var locator = new PostgresLocator(_root, "", isPrivileged, PostgresImage: null, PostgresPrograms: null);

        if (expectedCommand is null)
        {
            Assert.Contains("nobody", Assert.Throws<StartupException>(locator.UnprivilegedCommandPrefix).Message, StringComparison.Ordinal);
        }
        else
        {
            Assert.Equal(expectedCommand, string.Join(' ', locator.UnprivilegedCommandPrefix()));
        }
    }

    [Fact]
    public void DefaultLocator_DescribesThisMachine()
    {
        Assert.Equal(("", Environment.GetEnvironmentVariable("PATH"), Environment.IsPrivilegedProcess), (PostgresLocator.ThisMachine.Root, PostgresLocator.ThisMachine.Path, PostgresLocator.ThisMachine.IsPrivileged));
        Assert.Equal(Environment.GetEnvironmentVariable("CALCOM_ACCOUNTS_POSTGRES_IMAGE"), PostgresLocator.ThisMachine.PostgresImage);
    }

    [Fact]
    public async Task StartedServer_DescribesItselfAndIsRemovedOnDispose()
    {
        string folder;
        int postmaster;
        var steps = new List<string>();
        await using (var server = await EmbeddedPostgres.StartAsync(steps.Add, CancellationToken.None))
        {
            Assert.Equal([$"{server.Description}: initializing the data directory", "starting the server"], steps);
            folder = new NpgsqlConnectionStringBuilder(server.ConnectionString).Host!;
            postmaster = int.Parse((await File.ReadAllLinesAsync($"{folder}/postmaster.pid"))[0], CultureInfo.InvariantCulture);

            Assert.Matches("^/tmp/calcom-accounts-[0-9a-f]{12}$", folder);
            Assert.Matches(@"^PostgreSQL \d+\.\d+ from /\S+$", server.Description);
            Assert.Equal($"psql 'host={folder} user=postgres dbname=postgres'", server.PsqlCommand);
            Assert.False(ServiceProcess.HasEnded(postmaster));
        }

        Assert.False(Directory.Exists(folder));
        Assert.True(ServiceProcess.HasEnded(postmaster));
    }

    [Theory]
    [InlineData(null, "postgres:17")]
    [InlineData("other:1", "other:1")]
    public async Task NoPrograms_StartsContainerOnLoopbackAndRemovesItOnDispose(string? image, string expected)
    {
        await using var real = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        await using var relay = new Relay(new(real.ConnectionString), refusing: 2, beforeForwarding: async () =>
        {
            await using var connection = new NpgsqlConnection(real.ConnectionString);
            await connection.ExecuteAsync($"alter role postgres password '{await File.ReadAllTextAsync($"{_root}/password")}'");
        });
        await InstallDockerAsync(run: $"printf %s \"$POSTGRES_PASSWORD\" > {_root}/password", port: $"echo 127.0.0.1:{relay.Port}");

        string name;
        var steps = new List<string>();
        await using (var server = await EmbeddedPostgres.StartAsync(CreateLocator(image), s_timeout, steps.Add, CancellationToken.None))
        {
            Assert.Equal([$"{server.Description}: starting the container, after downloading the image the first time", "waiting until the server accepts connections"], steps);
            Assert.Equal($"PostgreSQL in Docker, image {expected}", server.Description);
            var connection = new NpgsqlConnectionStringBuilder(server.ConnectionString);
            Assert.Equal(("127.0.0.1", relay.Port, "postgres", "postgres", 32), (connection.Host, connection.Port, connection.Username, connection.Database, connection.Password!.Length));
            name = Regex.Match(server.PsqlCommand, "^docker exec --interactive --tty (calcom-accounts-[0-9a-f]{12}) psql --username postgres$").Groups[1].Value;
            Assert.NotEmpty(name);
        }

        Assert.Equal(
            [
                "version --format {{.Server.Version}} in / without a password",
                $"run --detach --name {name} --publish 127.0.0.1::5432 --env POSTGRES_PASSWORD {expected} in / with a password",
                $"port {name} 5432 in / without a password",
                $"rm --force --volumes {name} in / without a password",
            ],
            await File.ReadAllLinesAsync(DockerLog));
        Assert.Equal(3, relay.Connections);
    }

    [Theory]
    [InlineData("echo no such image >&2; exit 1", "echo 127.0.0.1:1", " failed: no such image; if Docker can't download the image, set CALCOM_ACCOUNTS_POSTGRES_IMAGE to another one, or install PostgreSQL 14 or newer")]
    [InlineData("exit 0", "exit 1", " port ")]
    [InlineData("exit 0", "echo 127.0.0.1:1", "the PostgreSQL container did not accept connections within 0.3 seconds: ")]
    public async Task ContainerStartFails_ReportsTheCauseAndRemovesTheContainer(string run, string port, string expectedError)
    {
        await InstallDockerAsync(run, port);

        var started = Stopwatch.GetTimestamp();
        Assert.Contains(expectedError, await GetStartErrorAsync(), StringComparison.Ordinal);
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 5);
        await Eventually.HoldsAsync(
            async () => (await File.ReadAllTextAsync(DockerLog)).Contains("rm --force", StringComparison.Ordinal), TimeSpan.FromSeconds(5));
    }

    [Fact]
    public async Task StartCancelledWhileContainerIsCreated_RemovesTheContainer()
    {
        await InstallDockerAsync(run: $"sleep 2; echo made >> {DockerLog}", port: "exit 1");
        using var cancellation = new CancellationTokenSource();
        var starting = EmbeddedPostgres.StartAsync(CreateLocator(image: null), s_timeout, progress: null, cancellation.Token);
        await Eventually.HoldsAsync(async () => File.Exists(DockerLog) && (await File.ReadAllTextAsync(DockerLog)).Contains("run --detach", StringComparison.Ordinal), TimeSpan.FromSeconds(5));

        await cancellation.CancelAsync();

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => starting);
        await Eventually.HoldsAsync(
            async () => (await File.ReadAllLinesAsync(DockerLog)).SkipWhile(line => line is not "made").Any(line => line.StartsWith("rm --force", StringComparison.Ordinal)),
            TimeSpan.FromSeconds(10));
    }

    [Fact]
    public async Task DockerDoesNotAnswer_ReportsItsError()
    {
        await InstallAsync("path/bin/docker", "echo permission denied >&2; exit 1");

        Assert.Matches("^no database: .*, or start Docker \\(.*/docker version .* failed: permission denied\\), or set ConnectionStrings:CalcomAccounts$", await GetStartErrorAsync());
    }

    [Fact]
    public async Task RealDocker_StartsAndRemovesAContainer()
    {
        Assert.Matches("^no database: .*, or start Docker, or set ", await GetStartErrorAsync());

        // Otherwise there is no Docker engine or no image.
        if (!fixture.Server.IsTestcontainers)
        {
            return;
        }

        Directory.CreateDirectory($"{_root}/path/bin");
        File.CreateSymbolicLink($"{_root}/path/bin/docker", PostgresLocator.ThisMachine.Docker!);
        string connectionString;
        await using (var server = await EmbeddedPostgres.StartAsync(CreateLocator(PostgresLocator.ThisMachine.PostgresImage), s_timeout, progress: null, CancellationToken.None))
        {
            connectionString = server.ConnectionString;
            await using var connection = new NpgsqlConnection(await SampleData.LoadAsync(connectionString, CancellationToken.None));
            Assert.Equal(3, await connection.ExecuteScalarAsync<long>("select count(id) from calcom.agents"));
        }

        await using var gone = new NpgsqlConnection(connectionString + ";Pooling=false");
        await Assert.ThrowsAsync<NpgsqlException>(() => gone.OpenAsync());
    }

    private static string Version(string version) => $"echo 'initdb (PostgreSQL) {version}'; [ $1 = --version ]";

    private static Task AssertEventuallyGoneAsync(string folder) =>
        Eventually.HoldsAsync(() => Task.FromResult(!Directory.Exists(folder)), TimeSpan.FromSeconds(5));

    private PostgresLocator CreateLocator(string? image, string? programs = null) => new(_root, $"{_root}/path/bin", IsPrivileged: false, image, programs);

    private async Task<string> GetStartErrorAsync() => (await Assert.ThrowsAsync<StartupException>(
        () => EmbeddedPostgres.StartAsync(CreateLocator(image: null), TimeSpan.FromSeconds(0.3), progress: null, CancellationToken.None))).Message;

    private async Task InstallServerAsync(string folder, string? initdb, string? pgCtl)
    {
        if (initdb is not null)
        {
            await InstallAsync($"{folder}/initdb", initdb);
        }

        if (pgCtl is not null)
        {
            await InstallAsync($"{folder}/pg_ctl", pgCtl);
        }
    }

    // The input is read to its end, which would hang if it were left open.
    private Task InstallDockerAsync(string run, string port) => InstallAsync(
        "path/bin/docker",
        $"""
        cat > {_root}/input
        echo "$@" in $(pwd) with$([ -n "$POSTGRES_PASSWORD" ] || echo out) a password >> {DockerLog}
        case $1 in run) {run};; port) {port};; esac
        """);

    // Written by another process: a file that this process or one of its children has open for writing can't be executed.
    private async Task InstallAsync(string file, string script, string mode = "755")
    {
        var path = $"{_root}/{file}";
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        using var shell = Process.Start(new ProcessStartInfo("sh", ["-c", $"cat > \"$0\" && chmod {mode} \"$0\"", path]) { RedirectStandardInput = true })!;
        await shell.StandardInput.WriteAsync($"#!/bin/sh\n{script}\n");
        shell.StandardInput.Close();
        await shell.WaitForExitAsync();
    }

    /// <summary>A port that refuses the first connections and forwards all others to a PostgreSQL server.</summary>
    private sealed class Relay : IAsyncDisposable
    {
        private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
        private readonly Task _serving;

        public Relay(NpgsqlConnectionStringBuilder server, int refusing, Func<Task> beforeForwarding)
        {
            _listener.Start();
            _serving = ServeAsync(server, refusing, beforeForwarding);
        }

        public int Port => ((IPEndPoint)_listener.LocalEndpoint).Port;

        public int Connections { get; private set; }

        public async ValueTask DisposeAsync()
        {
            _listener.Stop();
            await _serving;
        }

        private async Task ServeAsync(NpgsqlConnectionStringBuilder server, int refusing, Func<Task> beforeForwarding)
        {
            while (await AcceptAsync() is { } client)
            {
                using var _ = client;
                if (++Connections > refusing)
                {
                    await beforeForwarding();
                    await RelayAsync(client, server);
                }
            }
        }

        private async Task<Socket?> AcceptAsync()
        {
            try
            {
                return await _listener.AcceptSocketAsync();
            }
            catch (Exception exception) when (exception is SocketException or InvalidOperationException)
            {
                // The listener was stopped.
                return null;
            }
        }

        private static async Task RelayAsync(Socket client, NpgsqlConnectionStringBuilder server)
        {
            var isFile = server.Host![0] is '/';
            using var socket = new Socket(isFile ? AddressFamily.Unix : AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(isFile ? new UnixDomainSocketEndPoint($"{server.Host}/.s.PGSQL.{server.Port}") : new IPEndPoint(IPAddress.Loopback, server.Port));
            await using var near = new NetworkStream(client);
            await using var far = new NetworkStream(socket);
            await Task.WhenAny(near.CopyToAsync(far), far.CopyToAsync(near));
        }
    }
}
