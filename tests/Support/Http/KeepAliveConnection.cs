using System.Net.Sockets;
using System.Text;

namespace CalcomAccounts.Tests.Support.Http;

/// <summary>A connection that repeats prepared requests at low cost, so that measurements show the service and not the client.</summary>
internal sealed class KeepAliveConnection : IDisposable
{
    private readonly TcpClient _client;
    private readonly byte[] _buffer = new byte[256 * 1024];

    private KeepAliveConnection(TcpClient client) => _client = client;

    public static async Task<KeepAliveConnection> OpenAsync(string url) => new(await RawHttp.ConnectAsync(url));

    public static byte[] Get(string path, string? token) => Request("GET", path, token, "");

    public static byte[] Post(string path, string token, string json) =>
        Request("POST", path, token, $"Content-Type: application/json\r\nContent-Length: {Encoding.UTF8.GetByteCount(json)}\r\n", json);

    /// <returns>The status of the response.</returns>
    public async Task<int> SendAsync(byte[] request, CancellationToken cancellationToken)
    {
        var stream = _client.GetStream();
        await stream.WriteAsync(request, cancellationToken);
        for (var received = 0; ;)
        {
            var read = await stream.ReadAsync(_buffer.AsMemory(received), cancellationToken);
            received = read > 0 ? received + read : throw new IOException("The connection was closed before its answer was complete.");
            var headEnd = _buffer.AsSpan(0, received).IndexOf("\r\n\r\n"u8);
            if (headEnd >= 0 && IsComplete(Encoding.ASCII.GetString(_buffer, 0, headEnd), _buffer.AsSpan(headEnd + 4, received - headEnd - 4)))
            {
                return int.Parse(_buffer.AsSpan(9, 3), provider: null);
            }
        }
    }

    public void Dispose() => _client.Dispose();

    private static bool IsComplete(string head, ReadOnlySpan<byte> body)
    {
        const string ContentLength = "\r\nContent-Length: ";
        var at = head.IndexOf(ContentLength, StringComparison.Ordinal);
        return at < 0 ? body.EndsWith("0\r\n\r\n"u8) : body.Length == int.Parse(head[(at + ContentLength.Length)..].Split('\r')[0], provider: null);
    }

    private static byte[] Request(string method, string path, string? token, string headers, string body = "") => Encoding.UTF8.GetBytes(
        $"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{(token is null ? "" : $"Authorization: Bearer {token}\r\n")}{headers}\r\n{body}");
}
