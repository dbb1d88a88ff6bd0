using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>A primary and two streaming standbys on the machine of another server, with which they are removed.</summary>
internal sealed class PostgresCluster : IAsyncDisposable
{
    private const string Password = "only-in-tests";

    private readonly PostgresServer _machine;
    private readonly List<(string Folder, int Port, string ConnectionString)> _servers = [];

    private PostgresCluster(PostgresServer machine) => _machine = machine;

    public const int Primary = 0;

    public const int Standby = 1;

    public const int OtherStandby = 2;

    public static int[] Standbys { get; } = [Standby, OtherStandby];

    public static int[] All { get; } = [Primary, .. Standbys];

    /// <summary>The ports inside a container.</summary>
    public static int[] Ports { get; } = [5433, 5434, 5435];

    public static async Task<PostgresCluster> StartAsync()
    {
        var cluster = new PostgresCluster(await PostgresServer.StartAsync());
        foreach (var port in Ports)
        {
            await cluster.AddAsync(port);
        }

        return cluster;
    }

    /// <summary>The connection string of the superuser for one of the servers.</summary>
    public string this[int server] => _servers[server].ConnectionString;

    /// <summary>The value of Host in the connection string of the service, as in docs/scaling.md.</summary>
    public string Hosts => string.Join(',', _servers.Select(server => new NpgsqlConnectionStringBuilder(server.ConnectionString)).Select(server => $"{server.Host}:{server.Port}"));

    /// <summary>Kills every process of the server at once.</summary>
    public Task KillAsync(int server) => SignalAsync("KILL", server);

    /// <summary>Suspends every process of the server.</summary>
    public Task FreezeAsync(int server) => SignalAsync("STOP", server);

    public Task ThawAsync(int server) => SignalAsync("CONT", server);

    /// <summary>Starts the server unless it runs.</summary>
    public Task StartAgainAsync(int server) => _machine.RunAsync($"""
        pg_isready --quiet --host 127.0.0.1 --port {_servers[server].Port} && exit
        rm -f '{_servers[server].Folder}/postmaster.pid'
        {Start(_servers[server].Folder)}
        """);

    /// <summary>Whether the standby has replayed all that the primary has written so far.</summary>
    public async Task<bool> HasCaughtUpAsync(int standby)
    {
        await using var primary = new NpgsqlConnection($"{_servers[Primary].ConnectionString};Pooling=false");
        var written = await primary.ExecuteScalarAsync<string>("select pg_current_wal_lsn()::text");
        await using var reader = new NpgsqlConnection($"{_servers[standby].ConnectionString};Pooling=false");
        return await reader.ExecuteScalarAsync<bool>("select pg_last_wal_replay_lsn() >= @written::pg_lsn", new { written });
    }

    public async ValueTask DisposeAsync()
    {
        // A test may have killed some of them.
        await _machine.RunAsync(string.Join('\n', _servers.Select(server => $"pg_ctl stop --silent --mode immediate --pgdata '{server.Folder}' || :")));
        await _machine.DisposeAsync();
    }

    private async Task AddAsync(int assigned)
    {
        var (listen, port, reached) = _machine.Port(assigned);
        var folder = $"{_machine.Folder}/cluster-{assigned}";
        var make = _servers is [var primary, ..]
            ? $"pg_basebackup -h 127.0.0.1 -p {primary.Port} -U postgres -D '{folder}' --write-recovery-conf --checkpoint=fast"
            : $"""
               echo '{Password}' > '{folder}.password'
               initdb --pgdata '{folder}' --username postgres --pwfile '{folder}.password' --auth scram-sha-256 --encoding UTF8 --no-locale --no-sync > /dev/null
               echo 'host all all all scram-sha-256' >> '{folder}/pg_hba.conf'
               printf "fsync = off\n" >> '{folder}/postgresql.conf'
               """;
        await _machine.RunAsync($"""
            export PGPASSWORD='{Password}'
            {make}
            printf "port = {port}\nlisten_addresses = '{listen}'\nunix_socket_directories = ''\n" >> '{folder}/postgresql.conf'
            {Start(folder)}
            """);
        _servers.Add((folder, port, $"Host=127.0.0.1;Port={reached};Username=postgres;Password={Password};Database=postgres"));
    }

    private static string Start(string folder) => $"pg_ctl start --silent --wait --pgdata '{folder}' --log '{folder}.log'";

    // While the postmaster is suspended, no other process of the server starts or ends.
    private Task SignalAsync(string signal, int server) => _machine.RunAsync($"""
        read process < '{_servers[server].Folder}/postmaster.pid'
        kill -STOP $process
        until grep -q '^State:.T' /proc/$process/status; do sleep 0.01; done
        kill -{signal} $(cat /proc/$process/task/$process/children) $process
        """);
}
