using System.Net;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>Npgsql connection strings: our defaults, which what is configured always overrides, and names fit for a message.</summary>
public static class ConnectionStrings
{
    /// <summary>The name under <c>ConnectionStrings</c> in the configuration.</summary>
    public const string Name = "CalcomAccounts";

    /// <summary>The configuration key of the connection string.</summary>
    public const string Key = $"ConnectionStrings:{Name}";

    // One for suspects, one for readiness, and one to tell a slow statement from a slow database.
    private const int OtherSessions = 3;

    // Npgsql would try Kerberos' library for each new session. Images don't have it: an exception each, and a line on stderr.
    private const string Defaults = "GSS Encryption Mode=Disable;";

    /// <summary>
    /// As many sessions as statements may be in flight, and a few; statements prepared with their first use; sessions that can't
    /// write; and one bound inside the other: the server gives a statement up, then Npgsql does, then the request ends.
    /// </summary>
    /// <param name="limits">Waiting for the pool and connecting share 2 fifths of the time for an answer.</param>
    /// <param name="servers">Of several, each gets half of that, as another is asked where one does not answer.</param>
    internal static string ServiceDefaults(LookupLimits limits, int servers)
    {
        var perServer = limits.RequestTimeout / Math.Min(servers, 2);
        var seconds = Math.Max(1, (int)(perServer.TotalSeconds * 0.4));
        var milliseconds = (int)(perServer.TotalMilliseconds * 0.3);

        // Without bitmap scans the newest keys of an agent come from their index, however few the planner believes there are.
        // A cancellation is sent but hardly waited for, for a millisecond: the server ends slow statements by itself, so what is left are
        // clients that have hung up, and a frozen server, which would never agree. Not to wait at all (-1) would leave its sessions in
        // the pool. Nothing is left in a session that would need a reset.
        return $"{Defaults}Application Name=calcom-accounts;Maximum Pool Size={limits.MaxConcurrentStatements + OtherSessions};Max Auto Prepare=4;Auto Prepare Min Usages=1;"
            + $"Timeout={seconds};Command Timeout={seconds};Cancellation Timeout=1;No Reset On Close=true;"
            + $"Options=-c default_transaction_read_only=on -c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={milliseconds} -c enable_bitmapscan=off;";
    }

    // Within the 15 seconds in which a migration that can't be done has to say so.
    internal const string MigrationDefaults = $"{Defaults}Application Name=calcom-accounts-migrate;Timeout=5;Pooling=false;";

    // Counting may take longer than answering.
    internal const string CheckDefaults =
        $"{Defaults}Application Name=calcom-accounts-check;Timeout=5;Pooling=false;Command Timeout=60;Options=-c default_transaction_read_only=on;";

    /// <exception cref="StartupException">It is not a connection string, or one that can't be used; the message does not repeat it.</exception>
    internal static NpgsqlConnectionStringBuilder Parse(string connectionString, string defaults)
    {
        var parsed = Read(connectionString, defaults);
        if (string.IsNullOrWhiteSpace(parsed.Host))
        {
            throw new StartupException($"{Key} names no Host");
        }

        if (!parsed.Host.Split(',').All(IsServer))
        {
            throw new StartupException($"{Key} names a Host that is none; it has to be as in \"Host=db\", \"Host=db1,db2:5433\" or \"Host=/run/postgresql\"");
        }

        if (parsed.Port > ushort.MaxValue)
        {
            throw new StartupException($"{Key} names a Port that is none");
        }

        try
        {
            // Which settings need or exclude each other Npgsql would say with the first request.
            NpgsqlDataSource.Create(parsed).Dispose();
            return parsed;
        }
        catch (Exception exception) when (exception is ArgumentException or NotSupportedException)
        {
            throw new StartupException($"{Key} is not valid: {exception.Message.ReplaceLineEndings(" ")}", exception);
        }
    }

    /// <summary>The server and database, without user and password.</summary>
    internal static string Describe(NpgsqlConnectionStringBuilder server) =>
        $"{string.Join(',', server.Host!.Split(',').Select(host => HasPort(host) ? host : $"{host}:{server.Port}"))}, database {server.Database ?? server.Username ?? "of the user's name"}";

    /// <summary>Why a server could not be asked, or what it refused, in a line: nothing that the server itself says but codes and names.</summary>
    public static string Explain(Exception exception) => exception switch
    {
        PostgresException { SqlState: PostgresErrorCodes.ProtocolViolation } refusal when refusal.MessageText.Contains("startup parameter", StringComparison.Ordinal) =>
            "unsupported startup parameter (SQLSTATE 08P01); behind PgBouncer the connection string says Options=, as in docs/scaling.md",
        PostgresException refusal => DatabaseException.Describe(refusal),
        AggregateException several => string.Join("; ", several.InnerExceptions.Select(Explain).Distinct()),
        { InnerException: { } cause } => $"{exception.Message} ({Explain(cause)})",
        _ => exception.Message,
    };

    private static NpgsqlConnectionStringBuilder Read(string connectionString, string defaults)
    {
        try
        {
            return new(defaults + connectionString);
        }
        catch (ArgumentException exception)
        {
            throw new StartupException(
                $"{Key} is not an Npgsql connection string, such as \"Host=db;Database=platform;Username=calcom_service;Password='…'\": "
                + "not a URL, every keyword one of Npgsql's, every value of its kind, and in quotes where it has a ';' or '='",
                exception);
        }
    }

    // An IPv6 address without brackets has none.
    private static bool HasPort(string host) => host.Contains("]:", StringComparison.Ordinal) || host.Count(character => character is ':') is 1;

    // The folder of a socket, a socket without a file, or a name or address with a port or without.
    private static bool IsServer(string host) =>
        host.Trim() is var server
        && (server is ['/' or '@', ..]
            || IPAddress.TryParse(server, out _)
            || (server is not [.., ':'] && Uri.TryCreate($"tcp://{server}", UriKind.Absolute, out var address) && address is { Host.Length: > 0, UserInfo: "", PathAndQuery: "/" or "" }));
}
