using System.Diagnostics.Metrics;
using System.Text;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Application;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Logging.Console;
using Microsoft.Extensions.Options;

namespace CalcomAccounts.Api.Observability;

/// <summary>
/// The log on standard output: in the formats and by the settings of ASP.NET Core's own (<c>Logging:Console</c>), but without its queue,
/// which blocks requests where nobody reads.
/// </summary>
[ProviderAlias("Console")]
internal sealed class ConsoleLog : ILoggerProvider, ISupportExternalScope
{
    private const int UsualLength = 1024;

    private static readonly UTF8Encoding s_utf8 = new(encoderShouldEmitUTF8Identifier: false);

    [ThreadStatic]
    private static StreamWriter? s_line;

    private readonly ConsoleFormatter _formatter;
    private readonly BoundedLogWriter _writer;
    private IExternalScopeProvider? _scopes;

    public ConsoleLog(
        IEnumerable<ConsoleFormatter> formatters, IOptions<ConsoleLoggerOptions> options, ShutdownTimeouts timeouts, IMeterFactory meters)
        : this(formatters, options, timeouts, meters, Console.OpenStandardOutput())
    {
    }

    internal ConsoleLog(
        IEnumerable<ConsoleFormatter> formatters, IOptions<ConsoleLoggerOptions> options, ShutdownTimeouts timeouts, IMeterFactory meters, Stream output)
    {
        var byName = formatters.ToDictionary(formatter => formatter.Name, StringComparer.OrdinalIgnoreCase);
        _formatter = byName.GetValueOrDefault(options.Value.FormatterName ?? "") ?? byName[ConsoleFormatterNames.Simple];
        _writer = new(output, FormatDropped, timeouts.Log);
        meters.Create(ResolutionMetrics.MeterName).CreateObservableCounter(
            "calcom.log.dropped", () => _writer.Dropped, "{line}", "Log lines that were dropped, as standard output did not take them");
    }

    public ILogger CreateLogger(string categoryName) => new Logger(this, categoryName);

    public void SetScopeProvider(IExternalScopeProvider scopeProvider) => _scopes = scopeProvider;

    public void Dispose() => _writer.Dispose();

    /// <returns>The line in UTF-8, until the next one of this thread; empty where the formatter writes none.</returns>
    private ReadOnlySpan<byte> Format<TState>(scoped in LogEntry<TState> entry)
    {
        var line = s_line ??= new(new MemoryStream(UsualLength), s_utf8, UsualLength);
        var bytes = (MemoryStream)line.BaseStream;
        bytes.SetLength(0);

        // A longer line is rare: its memory is not kept.
        bytes.Capacity = UsualLength;
        try
        {
            _formatter.Write(entry, _scopes, line);
        }
        finally
        {
            line.Flush();
        }

        return bytes.GetBuffer().AsSpan(0, (int)bytes.Length);
    }

    private ReadOnlySpan<byte> FormatDropped(long lines)
    {
        KeyValuePair<string, object?>[] state = [new("Lines", lines), new("{OriginalFormat}", "{Lines} log lines were dropped")];
        return Format(new LogEntry<KeyValuePair<string, object?>[]>(
            LogLevel.Warning, typeof(ConsoleLog).FullName!, new(1, "LinesDropped"), state, exception: null, (_, _) => $"{lines} log lines were dropped"));
    }

    private sealed class Logger(ConsoleLog log, string category) : ILogger
    {
        public bool IsEnabled(LogLevel logLevel) => logLevel is not LogLevel.None;

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => log._scopes?.Push(state);

        public void Log<TState>(
            LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            var line = log.Format(new LogEntry<TState>(logLevel, category, eventId, state, exception, formatter));
            if (!line.IsEmpty)
            {
                log._writer.Add(line);
            }
        }
    }
}

/// <summary>Composes <see cref="ConsoleLog"/>.</summary>
internal static class ConsoleLogExtensions
{
    /// <summary>Replaces all other logging, ASP.NET Core's own console included.</summary>
    public static ILoggingBuilder UseConsoleLog(this ILoggingBuilder logging)
    {
        logging.ClearProviders().Services.AddSingleton<ILoggerProvider, ConsoleLog>();
        return logging;
    }
}
