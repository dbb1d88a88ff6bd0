using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>Stands before a PostgreSQL server and has it say that its version is another: the old ones are not at hand where tests run.</summary>
internal sealed class OldPostgres : IDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly EndPoint _server;
    private readonly byte[] _version;

    private OldPostgres(string host, int port, string majorVersion)
    {
        _server = host is ['/', ..] ? new UnixDomainSocketEndPoint($"{host}/.s.PGSQL.{port}") : new DnsEndPoint(host, port);
        _version = Encoding.ASCII.GetBytes(majorVersion);
        _listener.Start();
        _ = AcceptAsync();
    }

    /// <param name="connectionString">Of the server behind.</param>
    /// <param name="majorVersion">Of two digits, as the server's own has.</param>
    /// <param name="seen">The same server as it is seen through this.</param>
    public static OldPostgres Before(string connectionString, string majorVersion, out string seen)
    {
        var server = new Npgsql.NpgsqlConnectionStringBuilder(connectionString);
        var old = new OldPostgres(server.Host!, server.Port, majorVersion);
        server.Host = "127.0.0.1";
        server.Port = ((IPEndPoint)old._listener.LocalEndpoint).Port;
        server.SslMode = Npgsql.SslMode.Disable;
        seen = server.ConnectionString;
        return old;
    }

    public void Dispose() => _listener.Dispose();

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                _ = ServeAsync(await _listener.AcceptTcpClientAsync());
            }
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // Disposed of.
        }
    }

    private async Task ServeAsync(TcpClient client)
    {
        using (client)
        {
            using var socket = new Socket(_server.AddressFamily is AddressFamily.Unix ? AddressFamily.Unix : AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(_server);
            await using var server = new NetworkStream(socket);
            try
            {
                await await Task.WhenAny(client.GetStream().CopyToAsync(server), AnswerAsync(server, client.GetStream()));
            }
            catch (IOException)
            {
                // Either side has gone.
            }
        }
    }

    private async Task AnswerAsync(NetworkStream server, NetworkStream client)
    {
        var buffer = new byte[64 * 1024];
        while (await server.ReadAsync(buffer) is > 0 and var length)
        {
            // A parameter that is told as soon as a session is authenticated, in one packet with others.
            var at = buffer.AsSpan(0, length).IndexOf("server_version\0"u8);
            if (at >= 0)
            {
                _version.CopyTo(buffer, at + "server_version\0".Length);
            }

            await client.WriteAsync(buffer.AsMemory(0, length));
        }
    }
}
