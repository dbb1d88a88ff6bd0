using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Threading.RateLimiting;
using CalcomAccounts.Infrastructure;
using Microsoft.IdentityModel.Protocols;
using Microsoft.IdentityModel.Protocols.OpenIdConnect;

namespace CalcomAccounts.Api.Authentication;

/// <summary>
/// The keys that an authority publishes. They are read at start, every few minutes, and when a token comes whose key is unknown: by one
/// request for all that wait, and by no more requests a minute than a token bucket lets through.
/// </summary>
internal sealed partial class PublishedKeys : IDisposable
{
    private const int Burst = 5;

    // Where the section says nothing: the first within the time that a request has, the second within the 5 minutes that a withdrawn
    // key may live on.
    private static readonly TimeSpan s_backchannelTimeout = TimeSpan.FromSeconds(1.5);
    private static readonly TimeSpan s_automaticRefreshInterval = TimeSpan.FromSeconds(270);

    // The pace of the token bucket, and of attempts while the authority has never been reached.
    private static readonly TimeSpan s_refreshInterval = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan s_retryInterval = TimeSpan.FromSeconds(30);

    private readonly string _name;
    private readonly string _address;
    private readonly HttpClient _client;
    private readonly bool _requireHttps;
    private readonly Action<OpenIdConnectConfiguration> _accept;
    private readonly ILogger _logger;
    private readonly TokenBucketRateLimiter _bucket;
    private readonly Lock _lock = new();
    private Task? _fetch;
    private string? _documents;
    private long _askedAt = long.MinValue;
    private long _readAt = Stopwatch.GetTimestamp();
    private bool _isFailing;

    private PublishedKeys(string address, IConfigurationSection section, Action<OpenIdConnectConfiguration> accept, ILogger logger)
    {
        _name = section.Path;
        _logger = logger;
        _address = address;
        _accept = accept;
        _requireHttps = section["RequireHttpsMetadata"] is not { Length: > 0 } requireHttps
            || (bool.TryParse(requireHttps, out var isRequired) ? isRequired : throw new StartupException($"{_name}:RequireHttpsMetadata has to be true or false"));
        Timeout = ReadInterval(section, "BackchannelTimeout", s_backchannelTimeout);
        RefreshInterval = ReadInterval(section, "RefreshInterval", s_refreshInterval);
        AutomaticRefreshInterval = ReadInterval(section, "AutomaticRefreshInterval", s_automaticRefreshInterval);
        if (!Uri.TryCreate(address, UriKind.Absolute, out var url) || (url.Scheme != Uri.UriSchemeHttps && (_requireHttps || url.Scheme != Uri.UriSchemeHttp)))
        {
            throw new StartupException($"{_name}:Authority has to be an https URL, or {_name}:RequireHttpsMetadata false");
        }

        _client = new(new SocketsHttpHandler { PooledConnectionLifetime = TimeSpan.FromMinutes(5) }) { Timeout = Timeout, MaxResponseContentBufferSize = 1024 * 1024 };
        _bucket = new(new()
        {
            TokenLimit = Burst,
            TokensPerPeriod = 1,
            ReplenishmentPeriod = RefreshInterval,
            QueueLimit = 1,
        });
    }

    /// <summary>How long the authority may take to answer.</summary>
    public TimeSpan Timeout { get; }

    /// <summary>How often, at most, tokens of unknown keys make the keys be read, after the first few.</summary>
    public TimeSpan RefreshInterval { get; }

    /// <summary>How often the keys are read without a reason.</summary>
    public TimeSpan AutomaticRefreshInterval { get; }

    /// <summary>The <see cref="Stopwatch"/>'s time at which the authority was asked for the keys in force.</summary>
    public long AskedAt => Volatile.Read(ref _askedAt);

    /// <summary>Whether the keys were ever read.</summary>
    public bool IsRead => AskedAt is not long.MinValue;

    /// <summary>The time since the keys were last read; since the start, where they never were.</summary>
    public TimeSpan Age => Stopwatch.GetElapsedTime(Volatile.Read(ref _readAt));

    /// <returns>Null where the section names no authority.</returns>
    /// <exception cref="StartupException">A setting makes no sense.</exception>
    public static PublishedKeys? Read(IConfigurationSection section, Action<OpenIdConnectConfiguration> accept, ILogger logger) =>
        ReadAddress(section) is { } address ? new(address, section, accept, logger) : null;

    /// <summary>Where the discovery document is; null where the section names no authority.</summary>
    public static string? ReadAddress(IConfigurationSection section) =>
        section["MetadataAddress"] is { Length: > 0 } address ? address
        : section["Authority"] is { Length: > 0 } authority ? $"{authority.TrimEnd('/')}/.well-known/openid-configuration"
        : null;

    /// <summary>Reads the keys anew, together with everybody else who waits for that.</summary>
    /// <exception cref="KeysUnavailableException">The authority does not answer, or answers with something else.</exception>
    public Task RefreshAsync()
    {
        lock (_lock)
        {
            return _fetch ??= Task.Run(FetchAsync);
        }
    }

    /// <summary>Keeps the keys fresh until the service stops.</summary>
    public async Task RunAsync(CancellationToken stopping)
    {
        while (!stopping.IsCancellationRequested)
        {
            var pause = AutomaticRefreshInterval;
            try
            {
                await RefreshAsync().WaitAsync(stopping);
            }
            catch (KeysUnavailableException)
            {
                pause = _documents is null ? RefreshInterval : TimeSpan.FromTicks(Math.Min(pause.Ticks, s_retryInterval.Ticks));
            }

            await Task.Delay(pause, stopping);
        }
    }

    public void Dispose()
    {
        _client.Dispose();
        _bucket.Dispose();
    }

    private async Task FetchAsync()
    {
        try
        {
            // One waits at a time, and so always gets its token.
            using var lease = await _bucket.AcquireAsync();
            var askedAt = Stopwatch.GetTimestamp();
            using var timeout = new CancellationTokenSource(Timeout);
            var documents = new RecordingRetriever(new HttpDocumentRetriever(_client) { RequireHttps = _requireHttps });
            var published = await OpenIdConnectConfigurationRetriever.GetAsync(_address, documents, timeout.Token);
            if (published.SigningKeys.Count is 0)
            {
                throw new InvalidDataException("it publishes no key");
            }

            // The same keys are the same set, so that what they have validated stays remembered.
            if (documents.Text != _documents)
            {
                _documents = documents.Text;
                _accept(published);
            }

            Volatile.Write(ref _askedAt, askedAt);
            Volatile.Write(ref _readAt, Stopwatch.GetTimestamp());
            if (_isFailing)
            {
                _isFailing = false;
                LogSuccess(_name);
            }
        }
        catch (Exception exception)
        {
            if (!_isFailing)
            {
                _isFailing = true;
                LogFailure(_name, Explain(exception));
            }

            throw new KeysUnavailableException(_name);
        }
        finally
        {
            lock (_lock)
            {
                _fetch = null;
            }
        }
    }

    // The library's own messages quote the whole answer.
    private string Explain(Exception exception) => exception switch
    {
        OperationCanceledException => $"no answer within {Timeout.TotalSeconds} s",
        InvalidDataException => exception.Message,
        _ when exception.GetBaseException() is HttpRequestException or SocketException => exception.GetBaseException().Message,
        _ => "it answers with something else",
    };

    [LoggerMessage(Level = LogLevel.Warning, EventId = 1, EventName = "KeysUnavailable", Message = "The keys of {Authority} can't be read: {Reason}; tokens of keys that are not known yet fail, and it is tried again")]
    private partial void LogFailure(string authority, string reason);

    [LoggerMessage(Level = LogLevel.Information, EventId = 2, EventName = "KeysAvailable", Message = "The keys of {Authority} can be read again")]
    private partial void LogSuccess(string authority);

    private static TimeSpan ReadInterval(IConfigurationSection section, string key, TimeSpan byDefault) =>
        section[key] is not { Length: > 0 } text ? byDefault
        : TimeSpan.TryParse(text, CultureInfo.InvariantCulture, out var interval) && interval > TimeSpan.Zero && interval <= TimeSpan.FromDays(1) ? interval
        : throw new StartupException($"{section.Path}:{key} has to be a time span up to a day, such as 00:00:02");

    private sealed class RecordingRetriever(IDocumentRetriever documents) : IDocumentRetriever
    {
        public string Text { get; private set; } = "";

        public async Task<string> GetDocumentAsync(string address, CancellationToken cancel)
        {
            var document = await documents.GetDocumentAsync(address, cancel);
            Text += document;
            return document;
        }
    }
}

/// <summary>An authority's keys can't be read, so that a token that they may have signed can't be judged.</summary>
internal sealed class KeysUnavailableException(string authority) : Exception($"The keys of {authority} can't be read.");
