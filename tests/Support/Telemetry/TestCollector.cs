using System.Collections.Concurrent;
using System.Globalization;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Support.Telemetry;

/// <summary>An OpenTelemetry collector on loopback (OTLP over gRPC or HTTP), which keeps all that it receives.</summary>
internal sealed class TestCollector : IAsyncDisposable
{
    private const string Grpc = "grpc";

    private readonly WebApplication _app;
    private readonly string? _protocol;
    private readonly ConcurrentQueue<(string Path, byte[] Body)> _received = [];

    private TestCollector(WebApplication app, string? protocol) => (_app, _protocol) = (app, protocol);

    /// <summary>Settings of a service that exports to this collector.</summary>
    public Dictionary<string, string?> Settings => new()
    {
        ["OTEL_EXPORTER_OTLP_ENDPOINT"] = _app.Urls.First(),
        ["OTEL_EXPORTER_OTLP_PROTOCOL"] = _protocol,
    };

    /// <summary>Everything received, as text.</summary>
    public string Text => string.Concat(_received.Select(request => Encoding.UTF8.GetString(request.Body)));

    /// <summary>The received metrics, as text.</summary>
    public string MetricsText => string.Concat(_received.Where(request => request.Path.Contains("metrics", StringComparison.Ordinal)).Select(request => Encoding.UTF8.GetString(request.Body)));

    // ExportTraceServiceRequest.resource_spans.scope_spans.spans
    public IReadOnlyList<Span> Spans =>
    [
        .. from request in _received
           where request.Path.Contains("trace", StringComparison.Ordinal)
           from resource in Message.Parse(request.Body).Messages(1)
           from scope in resource.Messages(2)
           from span in scope.Messages(2)
           select new Span(
               span.Hex(1), span.Hex(2), span.Hex(4), span.Text(3), span.Text(5), span.Attributes(9),
               [.. span.Messages(11).Select(one => (one.Text(2), one.Attributes(3)))],
               [.. span.Messages(13).Select(link => link.Hex(1))]),
    ];

    /// <param name="protocol">As OpenTelemetry names it; null for its default, which is gRPC.</param>
    public static async Task<TestCollector> StartAsync(string? protocol = "http/protobuf")
    {
        var isGrpc = protocol is null or Grpc;
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.ConfigureEndpointDefaults(
            endpoint => endpoint.Protocols = isGrpc ? HttpProtocols.Http2 : HttpProtocols.Http1));
        var app = builder.Build();
        app.Urls.Add("http://127.0.0.1:0");
        var collector = new TestCollector(app, protocol);
        app.MapPost("/{**path}", async (HttpContext context) =>
        {
            using var body = new MemoryStream();
            await context.Request.Body.CopyToAsync(body);
            if (isGrpc)
            {
                // A gRPC message has a prefix of five bytes; the response is an empty message.
                collector._received.Enqueue((context.Request.Path, body.ToArray()[5..]));
                context.Response.ContentType = "application/grpc";
                context.Response.DeclareTrailer("grpc-status");
                await context.Response.Body.WriteAsync(new byte[5]);
                context.Response.AppendTrailer("grpc-status", "0");
            }
            else
            {
                collector._received.Enqueue((context.Request.Path, body.ToArray()));
            }
        });
        await app.StartAsync();
        return collector;
    }

    public ValueTask DisposeAsync() => _app.DisposeAsync();

    /// <summary>A received span; ids are hexadecimal, or empty.</summary>
    internal sealed record Span(
        string TraceId,
        string SpanId,
        string ParentSpanId,
        string TraceState,
        string Name,
        IReadOnlyDictionary<string, string> Attributes,
        IReadOnlyList<(string Name, IReadOnlyDictionary<string, string> Attributes)> Events,
        IReadOnlyList<string> LinkedTraceIds);

    /// <summary>A protobuf message without its schema: fields by number.</summary>
    private sealed class Message
    {
        private readonly List<(int Number, ulong Value, byte[] Bytes)> _fields = [];

        public static Message Parse(byte[] bytes)
        {
            var message = new Message();
            var at = 0;
            while (at < bytes.Length)
            {
                var key = ReadVarint(bytes, ref at);
                var (value, length) = (key & 7) switch
                {
                    0 => (ReadVarint(bytes, ref at), 0),
                    1 => (BitConverter.ToUInt64(bytes, at), 8),
                    5 => (BitConverter.ToUInt32(bytes, at), 4),
                    _ => (0UL, (int)ReadVarint(bytes, ref at)),
                };
                message._fields.Add(((int)(key >> 3), value, bytes[at..(at + length)]));
                at += length;
            }

            return message;
        }

        public IEnumerable<Message> Messages(int number) => _fields.Where(field => field.Number == number).Select(field => Parse(field.Bytes));

        public string Text(int number) => Encoding.UTF8.GetString(Bytes(number));

        public string Hex(int number) => Convert.ToHexStringLower(Bytes(number));

        // KeyValue is a key and an AnyValue, of which only strings and integers are supported.
        public Dictionary<string, string> Attributes(int number) => Messages(number).ToDictionary(pair => pair.Text(1), pair =>
        {
            var value = pair.Messages(2).Single()._fields.Single();
            return value.Number is 1 ? Encoding.UTF8.GetString(value.Bytes) : value.Value.ToString(CultureInfo.InvariantCulture);
        });

        private byte[] Bytes(int number) => _fields.Find(field => field.Number == number).Bytes ?? [];

        private static ulong ReadVarint(byte[] bytes, ref int at)
        {
            ulong value = 0;
            for (var shift = 0; ; shift += 7)
            {
                var next = bytes[at++];
                value |= (ulong)(next & 0x7f) << shift;
                if (next < 0x80)
                {
                    return value;
                }
            }
        }
    }
}
