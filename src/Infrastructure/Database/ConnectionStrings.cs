using System.Net;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>Parses Npgsql connection strings, with the defaults for each use, which the configured string overrides.</summary>
public static class ConnectionStrings
{
    /// <summary>The name under <c>ConnectionStrings</c> in the configuration.</summary>
    public const string Name = "CalcomAccounts";

    /// <summary>The configuration key of the connection string.</summary>
    public const string Key = $"ConnectionStrings:{Name}";

    // For a page, the readiness check, and the probe that tells a slow statement from a slow database.
    private const int OtherSessions = 3;

    // By default Npgsql looks for the Kerberos library with each new session. Container images don't have it, which costs an exception and
    // a line on stderr each time.
    private const string CommonDefaults = "GSS Encryption Mode=Disable;";

    /// <summary>
    /// The defaults of docs/configuration.md: a session per concurrent statement and a few more, prepared statements, read-only sessions, and
    /// nested timeouts (<c>statement_timeout</c> &lt; command timeout &lt; request timeout).
    /// </summary>
    /// <param name="options">Connecting, the wait for a pooled session included, may take 40% of the request timeout.</param>
    /// <param name="servers">The number of hosts. With several, each gets half of the time, so that a second one can be tried.</param>
    internal static string ServiceDefaults(LookupOptions options, int servers)
    {
        var perServer = options.RequestTimeout / Math.Min(servers, 2);
        var seconds = Math.Max(1, (int)(perServer.TotalSeconds * 0.4));
        var milliseconds = (int)(perServer.TotalMilliseconds * 0.3);

        // enable_bitmapscan=off: so that an agent's newest keys are read in the order of their index, whatever the planner's estimates are.
        // plan_cache_mode=force_generic_plan: planning each statement anew takes several times what running it takes. A distributed database
        // can plan only for a known organization.
        // citus.max_adaptive_executor_pool_size=1: a statement for all servers opens one connection to each, which is faster under load.
        // jit=off: where an index is missing, compiling the statement would take longer than its timeout.
        // Cancellation Timeout=1 (ms): the server's statement_timeout ends slow statements anyway, and a frozen server would never confirm
        // the cancellation. With -1 its sessions would stay in the pool.
        // No Reset On Close: the service's statements leave no state in a session.
        var sessions = options.MaxConcurrentStatements + options.MaxOverdueBatches + options.MaxIsolatedStatements + OtherSessions;
        var planning = options.IsDistributed ? "force_custom_plan -c citus.max_adaptive_executor_pool_size=1" : "force_generic_plan";
        return $"{CommonDefaults}Application Name=calcom-accounts;Maximum Pool Size={sessions};Max Auto Prepare=4;Auto Prepare Min Usages=1;"
            + $"Timeout={seconds};Command Timeout={seconds};Cancellation Timeout=1;No Reset On Close=true;"
            + $"Options=-c default_transaction_read_only=on -c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={milliseconds} -c enable_bitmapscan=off -c jit=off -c plan_cache_mode={planning};";
    }

    // Short enough for 'migrate' to fail within the 15 seconds that docs/database.md promises.
    internal const string MigrationDefaults = $"{CommonDefaults}Application Name=calcom-accounts-migrate;Timeout=5;Pooling=false;";

    // 'check' counts all rows, which takes longer than a lookup.
    internal const string CheckDefaults =
        $"{CommonDefaults}Application Name=calcom-accounts-check;Timeout=5;Pooling=false;Command Timeout=60;Options=-c default_transaction_read_only=on;";

    /// <exception cref="StartupException">The connection string is not valid. The message does not repeat it, as it may have a password.</exception>
    internal static NpgsqlConnectionStringBuilder Parse(string connectionString, string defaults)
    {
        var parsed = ParseKeywords(connectionString, defaults);
        if (string.IsNullOrWhiteSpace(parsed.Host))
        {
            throw new StartupException($"{Key} has no Host");
        }

        if (!Hosts(parsed).All(IsValidHost))
        {
            throw new StartupException($"{Key} has an invalid Host; valid are, for example, \"Host=db\", \"Host=db1,db2:5433\" and \"Host=/run/postgresql\"");
        }

        if (parsed.Port > ushort.MaxValue)
        {
            throw new StartupException($"{Key} has an invalid Port");
        }

        try
        {
            // Npgsql reports settings that exclude each other only when a data source is created.
            NpgsqlDataSource.Create(parsed).Dispose();
            return parsed;
        }
        catch (Exception exception) when (exception is ArgumentException or NotSupportedException)
        {
            throw new StartupException($"{Key} is not valid: {exception.Message.ReplaceLineEndings(" ")}", exception);
        }
    }

    /// <summary>The servers, each with its port where it has one of its own.</summary>
    internal static string[] Hosts(NpgsqlConnectionStringBuilder server) => server.Host!.Split(',');

    /// <summary>The servers and the database, for messages: without user and password.</summary>
    internal static string Describe(NpgsqlConnectionStringBuilder server) =>
        $"{string.Join(',', Hosts(server).Select(host => HasPort(host) ? host : $"{host}:{server.Port}"))}, database {server.Database ?? server.Username ?? "named like the user"}";

    private static NpgsqlConnectionStringBuilder ParseKeywords(string connectionString, string defaults)
    {
        try
        {
            return new(defaults + connectionString);
        }
        catch (ArgumentException exception)
        {
            throw new StartupException(
                $"{Key} is not an Npgsql connection string, such as \"Host=db;Database=platform;Username=calcom_service;Password='…'\": "
                + "it must not be a URL, every keyword has to be known to Npgsql, and a value with a ';' or '=' needs quotes",
                exception);
        }
    }

    // An IPv6 address without brackets can't have a port.
    private static bool HasPort(string host) => host.Contains("]:", StringComparison.Ordinal) || host.Count(character => character is ':') is 1;

    // A folder of a Unix socket, an abstract Unix socket (@), an IP address, or a name or address with or without a port.
    private static bool IsValidHost(string host) =>
        host.Trim() is var server
        && (server is ['/' or '@', ..]
            || IPAddress.TryParse(server, out _)
            || (server is not [.., ':'] && Uri.TryCreate($"tcp://{server}", UriKind.Absolute, out var address) && address is { Host.Length: > 0, UserInfo: "", PathAndQuery: "/" or "" }));
}
