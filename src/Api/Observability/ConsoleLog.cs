using System.Diagnostics.Metrics;
using System.Globalization;
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
    // A line that is longer is rare: its memory is not kept.
    private const int UsualLength = 1024;

    [ThreadStatic]
    private static StringWriter? s_line;

    private readonly ConsoleFormatter _formatter;
    private readonly BoundedLogWriter _writer;
    private IExternalScopeProvider? _scopes;

    public ConsoleLog(
        IEnumerable<ConsoleFormatter> formatters, IOptions<ConsoleLoggerOptions> options, ShutdownTimeouts timeouts, IMeterFactory meters)
    {
        var byName = formatters.ToDictionary(formatter => formatter.Name, StringComparer.OrdinalIgnoreCase);
        _formatter = byName.GetValueOrDefault(options.Value.FormatterName ?? "") ?? byName[ConsoleFormatterNames.Simple];
        _writer = new(Console.OpenStandardOutput(), FormatDropped, timeouts.Log);
        meters.Create(ResolutionMetrics.MeterName).CreateObservableCounter(
            "calcom.log.dropped", () => _writer.Dropped, "{line}", "Log lines that were dropped, as standard output did not take them");
    }

    public ILogger CreateLogger(string categoryName) => new Logger(this, categoryName);

    public void SetScopeProvider(IExternalScopeProvider scopeProvider) => _scopes = scopeProvider;

    public void Dispose() => _writer.Dispose();

    private string Format<TState>(in LogEntry<TState> entry)
    {
        var line = s_line ??= new(CultureInfo.InvariantCulture);
        var buffer = line.GetStringBuilder();
        try
        {
            _formatter.Write(entry, _scopes, line);
            return buffer.ToString();
        }
        finally
        {
            buffer.Clear();
            buffer.Capacity = Math.Min(buffer.Capacity, UsualLength);
        }
    }

    private string FormatDropped(long lines)
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
            if (line is not "")
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
