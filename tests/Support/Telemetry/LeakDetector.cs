using System.Buffers;
using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Support.Telemetry;

/// <summary>Inspects every log line of all services in this process, and keeps those that contain a secret.</summary>
internal sealed class LeakDetector : ILoggerProvider, ILogger
{
    // The characters of base64 and of base64url, a run of which may be a secret.
    private static readonly SearchValues<char> s_base64 = SearchValues.Create("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    private static readonly SearchValues<char> s_base64Url = SearchValues.Create("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

    private static readonly ConcurrentDictionary<string, bool> s_secrets = new();
    private static readonly ConcurrentDictionary<string, bool>.AlternateLookup<ReadOnlySpan<char>> s_secretsBySpan = s_secrets.GetAlternateLookup<ReadOnlySpan<char>>();
    private int _lines;

    public static LeakDetector Instance { get; } = new();

    /// <summary>The log lines that contain a secret.</summary>
    public ConcurrentQueue<string> Leaks { get; } = [];

    public int Lines => _lines;

    /// <summary>From now on, a line that holds this is a leak: a signature, a key or a password. The padding of base64 does not count.</summary>
    public static void Watch(string secret) => s_secrets[secret.TrimEnd('=')] = true;

    public static bool HoldsSecret(ReadOnlySpan<char> line) =>
        HoldsJwtPart(line) || HoldsSecretAmongRuns(line, s_base64Url) || HoldsSecretAmongRuns(line, s_base64);

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

    // By vectorized searches, as every line that any service of the run logs goes through here.
    private static bool HoldsSecretAmongRuns(ReadOnlySpan<char> line, SearchValues<char> characters)
    {
        for (var start = line.IndexOfAny(characters); start >= 0; start = line.IndexOfAny(characters))
        {
            line = line[start..];
            var length = line.IndexOfAnyExcept(characters) is >= 0 and var end ? end : line.Length;
            if (length >= 8 && s_secretsBySpan.ContainsKey(line[..length]))
            {
                return true;
            }

            line = line[length..];
        }

        return false;
    }

    // "eyJ" is the base64url of '{"', with which the header and the claims of every token begin.
    private static bool HoldsJwtPart(ReadOnlySpan<char> line)
    {
        for (var start = line.IndexOf("eyJ"); start >= 0; start = line.IndexOf("eyJ"))
        {
            line = line[(start + 3)..];
            if (line.Length >= 6 && !line[..6].ContainsAnyExcept(s_base64Url))
            {
                return true;
            }
        }

        return false;
    }
}
