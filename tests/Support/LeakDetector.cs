using System.Collections.Concurrent;
using System.Text.RegularExpressions;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Support;

/// <summary>Reads all that every service of this run logs, at its most verbose, and keeps what holds a secret.</summary>
internal sealed partial class LeakDetector : ILoggerProvider, ILogger
{
    private static readonly ConcurrentDictionary<string, bool> s_secrets = new();
    private int _lines;

    public static LeakDetector Instance { get; } = new();

    /// <summary>What was logged with a secret in it.</summary>
    public ConcurrentQueue<string> Leaks { get; } = [];

    public int Lines => _lines;

    /// <summary>From now on, a line that holds this is a leak: a signature, a key or a password.</summary>
    public static void Watch(string secret) => s_secrets[secret] = true;

    public static bool HoldsSecret(string line) =>
        JwtPart.IsMatch(line) || new[] { Base64UrlRun, Base64Run }.Any(
            runs => runs.Matches(line).Any(run => s_secrets.ContainsKey(run.Value)));

    public ILogger CreateLogger(string categoryName) => this;

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(
        LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        var values = state as IEnumerable<KeyValuePair<string, object?>> ?? [];
        var line = $"{eventId.Name} {formatter(state, exception)} {exception} {string.Join(' ', values.Select(value => value.Value))}";
        Interlocked.Increment(ref _lines);
        if (HoldsSecret(line))
        {
            Leaks.Enqueue(line);
        }
    }

    public void Dispose()
    {
    }

    // Base64url of '{"', with which the header and the claims of every token begin.
    [GeneratedRegex("eyJ[A-Za-z0-9_-]{6}")]
    private static partial Regex JwtPart { get; }

    [GeneratedRegex("[A-Za-z0-9_-]{8,}")]
    private static partial Regex Base64UrlRun { get; }

    [GeneratedRegex("[A-Za-z0-9+/]{8,}={0,2}")]
    private static partial Regex Base64Run { get; }
}
