using System.Diagnostics;

namespace CalcomAccounts.Api;

/// <summary>
/// Writes what it is given at once, then rests for a moment. The thread that writes the log is woken by each line that finds it
/// waiting, which under load costs more than the line does: when it comes back from a rest, it finds many.
/// </summary>
internal sealed class PacedWriter : StreamWriter
{
    private static readonly TimeSpan s_rest = TimeSpan.FromMilliseconds(10);
    private long _lastRest;

    // Large enough for a line of the log to be written in one piece.
    public PacedWriter(Stream output)
        : base(output, bufferSize: 16 * 1024) => AutoFlush = true;

    public override void Write(string? value)
    {
        base.Write(value);
        if (Stopwatch.GetElapsedTime(_lastRest) > s_rest)
        {
            Thread.Sleep(s_rest);
            _lastRest = Stopwatch.GetTimestamp();
        }
    }
}
