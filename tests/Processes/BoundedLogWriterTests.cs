using System.Diagnostics;
using System.Globalization;
using System.Text;
using CalcomAccounts.Api.Observability;

namespace CalcomAccounts.Tests.Processes;

/// <summary>The log writer, which buffers lines in bounded memory while its output is blocked.</summary>
public sealed class BoundedLogWriterTests
{
    private static ReadOnlySpan<byte> Line => "a line of the log that is about as long as one of a request, which has some 400 bytes where it is JSON\n"u8;

    private static readonly TimeSpan s_longFlush = TimeSpan.FromSeconds(10);

    [Fact]
    public void BlockedOutput_DropsLinesBeyondCapacityAndReportsTheirNumber()
    {
        using var output = new BlockingStream();
        using var writer = Writer(output, s_longFlush);
        writer.Add("first\n"u8);
        output.WaitUntilBlocked();
        var fitting = BoundedLogWriter.Capacity / Line.Length;

        for (var i = 0; i < fitting + 123; i++)
        {
            writer.Add(Line);
        }

        Assert.Equal(123, writer.Dropped);
        output.Release();
        writer.Dispose();
        var lines = output.Text.Split('\n');
        Assert.Equal(("first", "123 dropped", ""), (lines[0], lines[^2], lines[^1]));
        Assert.Equal(fitting, lines.Count(line => line.Length == Line.Length - 1));
        Assert.Equal(fitting + 3, lines.Length);
        Assert.Equal(123, writer.Dropped);
    }

    [Fact]
    public void FailingOutput_CountsLostLinesAndReportsThemWithTheNextLine()
    {
        using var output = new BlockingStream { ShouldFail = true };
        using var writer = Writer(output, s_longFlush);
        output.Release();
        writer.Add("one\n"u8);
        writer.Add("two\n"u8);
        Assert.True(SpinWait.SpinUntil(() => writer.Dropped is 2, s_longFlush));
        output.ShouldFail = false;

        writer.Add("three\n"u8);
        writer.Dispose();

        Assert.Equal("three\n2 dropped\n", output.Text);
    }

    [Fact]
    public void Dispose_WritesPendingLinesInOneWrite()
    {
        using var output = new BlockingStream();
        using var writer = Writer(output, s_longFlush);
        writer.Add("first\n"u8);
        output.WaitUntilBlocked();
        writer.Add("Größe 😀\n"u8);
        writer.Add("last\n"u8);

        output.Release();
        writer.Dispose();

        Assert.Equal(("first\nGröße 😀\nlast\n", 2), (output.Text, output.Writes));
    }

    [Fact]
    public void Dispose_BlockedOutput_ReturnsAfterFlushTimeout()
    {
        using var output = new BlockingStream();
        using var writer = Writer(output, TimeSpan.FromMilliseconds(200));
        writer.Add("first\n"u8);
        output.WaitUntilBlocked();
        var started = Stopwatch.GetTimestamp();

        writer.Dispose();

        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0.19, 2);
        output.Release();
    }

    private static BoundedLogWriter Writer(Stream output, TimeSpan flushTimeout) =>
        new(output, dropped => Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{dropped} dropped\n")), flushTimeout);

    /// <summary>A stream whose writes block until it is released.</summary>
    private sealed class BlockingStream : MemoryStream
    {
        private readonly ManualResetEventSlim _isBlocked = new();
        private readonly ManualResetEventSlim _isReleased = new();

        public bool ShouldFail { get; set; }

        public int Writes { get; private set; }

        public string Text => Encoding.UTF8.GetString(ToArray());

        public void WaitUntilBlocked() => Assert.True(_isBlocked.Wait(s_longFlush));

        public void Release() => _isReleased.Set();

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            _isBlocked.Set();
            _isReleased.Wait();
            Writes++;
            if (ShouldFail)
            {
                throw new IOException("No space left on device");
            }

            base.Write(buffer);
        }
    }
}
