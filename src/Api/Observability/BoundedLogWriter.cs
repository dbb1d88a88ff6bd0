using System.Buffers;

namespace CalcomAccounts.Api.Observability;

/// <summary>
/// Writes lines to a stream on a thread of its own, so that adding a line never waits for the stream. Lines that don't fit into the
/// buffer, because nobody reads or the disk is full, are dropped and counted; one line reports the count once lines can be written again.
/// </summary>
internal sealed class BoundedLogWriter : IDisposable
{
    /// <summary>How many bytes may wait to be written: some 10,000 lines of requests.</summary>
    internal const int Capacity = 4 * 1024 * 1024;

    // Waking the thread for each line would cost more than the line does.
    private static readonly TimeSpan s_flushInterval = TimeSpan.FromMilliseconds(10);

    private readonly Stream _output;
    private readonly Func<long, ReadOnlySpan<byte>> _formatDropped;
    private readonly TimeSpan _flushTimeout;
    private readonly Thread _thread;

    // Guards all of the following.
    private readonly object _lock = new();
    private ArrayBufferWriter<byte> _pending = new();
    private int _pendingLines;
    private long _dropped;
    private long _unreportedDropped;
    private bool _isStopping;

    /// <param name="output">Where to.</param>
    /// <param name="formatDropped">The line, with its line break, that tells how many were dropped.</param>
    /// <param name="flushTimeout">How long <see cref="Dispose"/> waits for what is pending to be written.</param>
    public BoundedLogWriter(Stream output, Func<long, ReadOnlySpan<byte>> formatDropped, TimeSpan flushTimeout)
    {
        (_output, _formatDropped, _flushTimeout) = (output, formatDropped, flushTimeout);

        // A background thread: a blocked write must not keep the process from ending.
        _thread = new(WriteUntilStopped) { IsBackground = true, Name = "console log" };
        _thread.Start();
    }

    /// <summary>How many lines were not written, ever.</summary>
    public long Dropped
    {
        get
        {
            lock (_lock)
            {
                return _dropped;
            }
        }
    }

    /// <param name="line">In UTF-8, with its line break.</param>
    public void Add(ReadOnlySpan<byte> line)
    {
        lock (_lock)
        {
            if (_pending.WrittenCount + line.Length > Capacity)
            {
                CountDropped(1);
                return;
            }

            _pending.Write(line);
            if (++_pendingLines is 1)
            {
                Monitor.Pulse(_lock);
            }
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _isStopping = true;
            Monitor.Pulse(_lock);
        }

        _thread.Join(_flushTimeout);
    }

    private void WriteUntilStopped()
    {
        var batch = new ArrayBufferWriter<byte>();
        while (TakePending(ref batch, out var lines, out var reported))
        {
            try
            {
                _output.Write(batch.WrittenSpan);
            }
            catch (Exception)
            {
                // The disk is full, or there is no standard output. The count is the only place to report it, and an exception here would end
                // the process.
                lock (_lock)
                {
                    CountDropped(lines);
                    _unreportedDropped += reported;
                }
            }

            batch.ResetWrittenCount();
            Thread.Sleep(s_flushInterval);
        }
    }

    /// <summary>Waits for lines, and swaps them with the empty <paramref name="batch"/>; false once it is stopping and none are left.</summary>
    private bool TakePending(ref ArrayBufferWriter<byte> batch, out int lines, out long reported)
    {
        lock (_lock)
        {
            while (_pendingLines is 0 && !_isStopping)
            {
                Monitor.Wait(_lock);
            }

            (batch, _pending) = (_pending, batch);
            (lines, _pendingLines) = (_pendingLines, 0);
            (reported, _unreportedDropped) = (_unreportedDropped, 0);
        }

        if (lines > 0 && reported > 0)
        {
            batch.Write(_formatDropped(reported));
        }

        return lines > 0;
    }

    private void CountDropped(int lines)
    {
        _dropped += lines;
        _unreportedDropped += lines;
    }
}
