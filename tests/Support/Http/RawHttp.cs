using System.Globalization;
using System.Net.Sockets;
using System.Text;

namespace CalcomAccounts.Tests.Support.Http;

/// <summary>Sends HTTP/1.1 requests as raw bytes, valid or not.</summary>
internal static class RawHttp
{
    /// <summary>Sends the request in Latin-1 on a new connection.</summary>
    /// <returns>The response, with status 0 if the server closed the connection without one.</returns>
    public static async Task<Answer> SendAsync(string url, string request)
    {
        using var client = await ConnectAsync(url);
        var stream = client.GetStream();
        var answer = ReadToEndAsync(stream);
        try
        {
            await stream.WriteAsync(Encoding.Latin1.GetBytes(request));
        }
        catch (IOException)
        {
            // The server may respond and close before it has read everything.
        }

        return Parse(await answer);
    }

    public static async Task<TcpClient> ConnectAsync(string url)
    {
        var client = new TcpClient();
        await client.ConnectAsync("127.0.0.1", new Uri(url).Port);
        return client;
    }

    private static async Task<string> ReadToEndAsync(NetworkStream stream)
    {
        using var received = new MemoryStream();
        try
        {
            await stream.CopyToAsync(received);
        }
        catch (IOException)
        {
            // The server reset the connection after its response, as it had not read everything.
        }

        return Encoding.Latin1.GetString(received.GetBuffer(), 0, (int)received.Length);
    }

    private static Answer Parse(string received)
    {
        if (received is "")
        {
            return new(0, "", new Dictionary<string, string>());
        }

        var headEnd = received.IndexOf("\r\n\r\n", StringComparison.Ordinal);
        var lines = received[..headEnd].Split("\r\n");
        var headers = lines[1..].Select(line => line.Split(": ", 2))
            .ToDictionary(header => header[0], header => header[1], StringComparer.OrdinalIgnoreCase);
        var body = received[(headEnd + 4)..];
        return new(
            int.Parse(lines[0].Split(' ')[1], CultureInfo.InvariantCulture),
            Encoding.UTF8.GetString(Encoding.Latin1.GetBytes(headers.ContainsKey("Transfer-Encoding") ? JoinChunks(body) : body)),
            headers);
    }

    private static string JoinChunks(string body)
    {
        var joined = new StringBuilder();
        for (var at = 0; body.IndexOf("\r\n", at, StringComparison.Ordinal) is var end and > 0;)
        {
            var length = int.Parse(body.AsSpan(at, end - at), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            joined.Append(body, end + 2, length);
            at = end + 2 + length + 2;
        }

        return joined.ToString();
    }
}
