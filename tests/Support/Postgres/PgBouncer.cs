using System.Diagnostics;
using CalcomAccounts.Infrastructure.Development;
using Npgsql;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>A PgBouncer in transaction mode in front of one server.</summary>
internal sealed class PgBouncer : IDisposable
{
    public const string Program = "/usr/sbin/pgbouncer";

    private readonly Process _process;
    private readonly string _folder;

    private PgBouncer(Process process, string folder, int port) => (_process, _folder, Port) = (process, folder, port);

    public int Port { get; }

    /// <param name="server">The server and the login.</param>
    /// <param name="sessions">The number of server sessions that all clients share.</param>
    /// <param name="setting">One more setting.</param>
    public static async Task<PgBouncer> StartAsync(NpgsqlConnectionStringBuilder server, int sessions, string setting)
    {
        var port = PostgresServer.FreePort();

        // PgBouncer does not run as root, and only the server's user may be allowed to use its socket.
        var asUser = PostgresLocator.ThisMachine.UnprivilegedCommandPrefix();
        var folder = Directory.CreateDirectory(Path.Combine(Path.GetTempPath(), $"calcom-accounts-pgbouncer-{port}")).FullName;
        await File.WriteAllTextAsync($"{folder}/users", $"\"{server.Username}\" \"{server.Password}\"\n");
        await File.WriteAllTextAsync($"{folder}/pgbouncer.ini", $"""
            [databases]
            * = host={server.Host} port={server.Port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {folder}/users
            pool_mode = transaction
            default_pool_size = {sessions}
            {setting}
            """);

        string[] command = [.. asUser, Program, $"{folder}/pgbouncer.ini"];
        var bouncer = new PgBouncer(
            Process.Start(new ProcessStartInfo(command[0], command[1..]) { RedirectStandardError = true })!, folder, port);
        bouncer._process.BeginErrorReadLine();
        return bouncer;
    }

    public void Dispose()
    {
        _process.Kill();
        _process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }
}
