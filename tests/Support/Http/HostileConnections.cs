using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CalcomAccounts.Tests.Support.Http;

/// <summary>Many connections that send the given bytes and never read; closed ones are opened again on request.</summary>
internal sealed class HostileConnections : IDisposable
{
    /// <summary>A little below the connection limit of the service, so that callers can still connect.</summary>
    public const int AlmostAll = 4900;

    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(25);

    /// <summary>After the response to this request the connection is idle.</summary>
    public const string OneRequest = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";

    /// <summary>Requests whose large responses nobody reads.</summary>
    public static string PipelinedAssets { get; } =
        string.Concat(Enumerable.Repeat("GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n", 20));

    private readonly byte[][] _pieces;
    private readonly IPEndPoint _server;
    private readonly List<Connection> _connections = [];
    private readonly Thread _thread;
    private readonly bool _renew;
    private readonly TaskCompletionSource _opened = new();
    private volatile bool _ended;
    private Exception? _failure;

    public HostileConnections(string url, int count, string[] pieces, bool renew)
    {
        _pieces = [.. pieces.Select(Encoding.ASCII.GetBytes)];
        _server = new(IPAddress.Loopback, new Uri(url).Port);
        _renew = renew;
        _thread = new Thread(() => Run(count));
        _thread.Start();
    }

    /// <summary>Waits until all are connected and have sent their first piece.</summary>
    public Task OpenedAsync() => _opened.Task.WaitAsync(TimeSpan.FromSeconds(10));

    public void ThrowIfFailed() => Assert.Null(_failure);

    public void Dispose()
    {
        _ended = true;
        _thread.Join();
    }

    private void Run(int count)
    {
        try
        {
            while (!_ended)
            {
                for (var i = 0; i < 100 && _connections.Count < count; i++)
                {
                    _connections.Add(new Connection(_server));
                }

                _connections.ForEach(connection => connection.Continue(_pieces, s_pause));
                if (_connections.Count == count && _connections.TrueForAll(connection => connection.HasBegun || _pieces is []))
                {
                    _opened.TrySetResult();
                }

                if (_renew)
                {
                    _connections.RemoveAll(connection => connection.IsClosed());
                }

                Thread.Sleep(10);
            }
        }
        catch (Exception exception)
        {
            _failure = exception;
        }
        finally
        {
            _connections.ForEach(connection => connection.Dispose());
        }
    }

    private sealed class Connection : IDisposable
    {
        private readonly Socket _socket = new(SocketType.Stream, ProtocolType.Tcp) { LingerState = new(true, 0) };
        private long _sentAt;
        private int _piece;
        private int _offset;
        private bool _failed;

        public Connection(IPEndPoint server)
        {
            _socket.Connect(server);
            _socket.Blocking = false;
        }

        public bool HasBegun => _piece > 0;

        public void Continue(byte[][] pieces, TimeSpan pause)
        {
            if (_failed || _piece == pieces.Length || Stopwatch.GetElapsedTime(_sentAt) < pause)
            {
                return;
            }

            _offset += Math.Max(0, _socket.Send(pieces[_piece], _offset, pieces[_piece].Length - _offset, SocketFlags.None, out var error));
            _failed = error is not (SocketError.Success or SocketError.WouldBlock);
            if (_offset == pieces[_piece].Length)
            {
                _sentAt = Stopwatch.GetTimestamp();
                _offset = 0;
                _piece++;
            }
        }

        /// <summary>Whether the server has closed the connection; peeks at a byte without reading it.</summary>
        public bool IsClosed()
        {
            if (!_failed && _socket.Poll(0, SelectMode.SelectRead))
            {
                var bytes = _socket.Receive(new byte[1], 0, 1, SocketFlags.Peek, out var error);
                _failed = bytes is 0 && error is not SocketError.WouldBlock;
            }

            if (_failed)
            {
                Dispose();
            }

            return _failed;
        }

        public void Dispose() => _socket.Dispose();
    }
}
