using System.Buffers;
using System.Diagnostics;
using System.IO.Pipelines;
using System.Runtime.CompilerServices;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Connections.Features;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;

namespace CalcomAccounts.Api.Hosting;

/// <summary>
/// Keeps a connection from taking memory or time from the others where Kestrel's own limits don't: 500 connections at most may have
/// a long request head in memory, and pipelined requests leave time for those that are not. HTTP/2 has limits of its own for the requests that
/// share a connection: there only what comes before the first request counts.
/// </summary>
internal sealed class ConnectionShare : PipeReader
{
    /// <summary>Kestrel keeps a head as text, two bytes a character: 5,000 of its longest would take 320 MB.</summary>
    private const int LongHeadBytes = 8 * 1024;

    private const int MaxLongHeads = 500;

    /// <summary>
    /// Where more than this many requests in a row came before the one before them was answered, those of all connections together
    /// are answered at 2,000 a second.
    /// </summary>
    private const int MaxPipelined = 8;

    private static readonly long s_pipelinedInterval = Stopwatch.Frequency / 2000;

    private readonly ConnectionContext _connection;
    private readonly PipeReader _input;
    private readonly Server _server;
    private readonly long _accepted = Stopwatch.GetTimestamp();
    private ReadOnlySequence<byte> _unread;
    private long _consumedBytes;
    private int _requests;
    private bool _hasLongHead;
    private bool _answered;
    private bool _isMultiplexed;
    private int _pipelined;

    private ConnectionShare(ConnectionContext connection, Server server)
    {
        _connection = connection;
        _input = connection.Transport.Input;
        _server = server;
    }

    /// <summary>The share of each connection that an endpoint accepts.</summary>
    public static ConnectionDelegate Limit(ConnectionDelegate next, Server server) => async connection =>
    {
        var share = new ConnectionShare(connection, server);
        connection.Transport = new DuplexPipe(share, connection.Transport.Output);
        connection.Features.Set(share);
        try
        {
            await next(connection);
        }
        finally
        {
            share.ForgetLongHead();
        }
    };

    /// <summary>What arrives within it is a body, not a head.</summary>
    public static async Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        var share = context.Features.GetRequiredFeature<ConnectionShare>();
        Interlocked.Increment(ref share._requests);
        share._consumedBytes = 0;
        if (HttpProtocol.IsHttp2(context.Request.Protocol))
        {
            share.Multiplex();
        }
        else if (share._hasLongHead || context.Request.ContentLength > LongHeadBytes)
        {
            // Until the next request Kestrel would keep the head's text. Of a long body that nobody reads it would read 64 KB, and reset the
            // connection if there is more, even though the answer has promised to keep it.
            CloseConnection(context);
        }
        else if (context.Request.Headers.TransferEncoding.Count > 0)
        {
            // The length of a chunked body is not known: a refused request may have a long one.
            context.Response.OnStarting(static state =>
            {
                var refused = (HttpContext)state;
                if (refused.Response.StatusCode >= StatusCodes.Status400BadRequest)
                {
                    CloseConnection(refused);
                }

                return Task.CompletedTask;
            }, context);
        }

        try
        {
            await next(context);
        }
        finally
        {
            share._answered = true;
            Interlocked.Decrement(ref share._requests);
        }
    }

    /// <summary>Asks the client to send its next request on another connection, once this one is answered.</summary>
    /// <param name="context">A request on it.</param>
    /// <param name="acceptedBefore">Of HTTP/2, only connections that were accepted before this timestamp.</param>
    public static void CloseConnection(HttpContext context, long acceptedBefore = long.MaxValue)
    {
        if (HttpProtocol.IsHttp2(context.Request.Protocol))
        {
            if (context.Features.GetRequiredFeature<ConnectionShare>()._accepted > acceptedBefore)
            {
                return;
            }

            // Sends GOAWAY: HTTP/2 has no Connection header.
            context.Features.Get<IConnectionLifetimeNotificationFeature>()?.RequestClose();
        }
        else
        {
            context.Response.Headers.Connection = "close";
        }
    }

    public override ValueTask<ReadResult> ReadAsync(CancellationToken cancellationToken = default)
    {
        var read = _input.ReadAsync(cancellationToken);
        if (_answered && !_isMultiplexed)
        {
            _answered = false;
            _pipelined = read.IsCompleted ? _pipelined + 1 : 0;
            return ReadAsync(read, isPipelined: read.IsCompleted);
        }

        return ReadAsync(read, isPipelined: false);
    }

    public override bool TryRead(out ReadResult result)
    {
        var isRead = _input.TryRead(out result);
        _unread = result.Buffer;
        return isRead;
    }

    public override void AdvanceTo(SequencePosition consumed) => AdvanceTo(consumed, consumed);

    public override void AdvanceTo(SequencePosition consumed, SequencePosition examined)
    {
        if (!_isMultiplexed && Volatile.Read(ref _requests) is 0)
        {
            var rest = _unread.Slice(consumed);
            _consumedBytes += _unread.Length - rest.Length;

            // Where more is needed the rest is of this head, else of the next.
            CheckHead(_consumedBytes + (_unread.Slice(examined).IsEmpty ? rest.Length : 0));
        }

        _unread = default;
        _input.AdvanceTo(consumed, examined);
    }

    public override void CancelPendingRead() => _input.CancelPendingRead();

    public override void Complete(Exception? exception = null) => _input.Complete(exception);

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<ReadResult> ReadAsync(ValueTask<ReadResult> read, bool isPipelined)
    {
        var result = await read;
        if (isPipelined)
        {
            await WaitForTurnAsync();
        }

        _unread = result.Buffer;
        return result;
    }

    private async ValueTask WaitForTurnAsync()
    {
        var wait = _pipelined > MaxPipelined ? _server.ReservePipelined() : TimeSpan.Zero;
        if (wait.TotalMilliseconds >= 1)
        {
            await Task.Delay(wait);
        }
        else
        {
            await Task.Yield();
        }
    }

    private void CheckHead(long bytes)
    {
        if (bytes <= LongHeadBytes || _hasLongHead)
        {
            return;
        }

        lock (_server)
        {
            if (_isMultiplexed)
            {
                return;
            }

            _hasLongHead = true;
            if (++_server.LongHeads > MaxLongHeads)
            {
                _connection.Abort(new ConnectionAbortedException("Too many long request heads at once"));
            }
        }
    }

    // What seemed to be one long head may have been those of many requests.
    private void Multiplex()
    {
        if (!_isMultiplexed)
        {
            lock (_server)
            {
                _isMultiplexed = true;
            }

            ForgetLongHead();
        }
    }

    private void ForgetLongHead()
    {
        lock (_server)
        {
            if (_hasLongHead)
            {
                _hasLongHead = false;
                _server.LongHeads--;
            }
        }
    }

    /// <summary>What its connections have in common.</summary>
    internal sealed class Server
    {
        private long _nextPipelined;

        public int LongHeads;

        /// <returns>How long to wait for the next turn of a pipelined request.</returns>
        public TimeSpan ReservePipelined()
        {
            while (true)
            {
                var now = Stopwatch.GetTimestamp();
                var next = Volatile.Read(ref _nextPipelined);
                var turn = Math.Max(now, next);
                if (Interlocked.CompareExchange(ref _nextPipelined, turn + s_pipelinedInterval, next) == next)
                {
                    return Stopwatch.GetElapsedTime(now, turn);
                }
            }
        }
    }

    private sealed record DuplexPipe(PipeReader Input, PipeWriter Output) : IDuplexPipe;
}

/// <summary>Composes <see cref="ConnectionShare"/>.</summary>
internal static class ConnectionShareExtensions
{
    /// <summary>Applies to every endpoint of this server.</summary>
    public static KestrelServerOptions UseConnectionShare(this KestrelServerOptions kestrel)
    {
        var server = new ConnectionShare.Server();
        kestrel.ConfigureEndpointDefaults(endpoint => endpoint.Use(next => ConnectionShare.Limit(next, server)));
        return kestrel;
    }

    /// <summary>Has to come before all other middleware.</summary>
    public static IApplicationBuilder UseConnectionShare(this IApplicationBuilder app) => app.Use(ConnectionShare.InvokeAsync);
}
