using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Support.Telemetry;

/// <summary>Captures log lines of at least this level as text, with exceptions.</summary>
internal sealed class CapturedLog(LogLevel least) : ILoggerProvider, ILogger
{
    public ConcurrentQueue<string> Lines { get; } = [];

    /// <summary>Waits for the single line, which may be logged shortly after the response.</summary>
    public async Task<string> SingleLineAsync()
    {
        for (var i = 0; i < 100 && Lines.IsEmpty; i++)
        {
            await Task.Delay(20);
        }

        return Assert.Single(Lines);
    }

    public ILogger CreateLogger(string categoryName) => this;

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= least;

    public void Log<TState>(
        LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (IsEnabled(logLevel))
        {
            Lines.Enqueue($"{formatter(state, exception)} {exception}");
        }
    }

    public void Dispose()
    {
    }
}
