using Npgsql;

namespace CalcomAccounts.Infrastructure;

/// <summary>Npgsql connection strings: our defaults, which what is configured always overrides, and names fit for a message.</summary>
public static class ConnectionStrings
{
    /// <summary>The name under <c>ConnectionStrings</c> in the configuration.</summary>
    public const string Name = "CalcomAccounts";

    /// <summary>The configuration key of the connection string.</summary>
    public const string Key = $"ConnectionStrings:{Name}";

    // Seconds, and milliseconds for the cancellation: a server that answers at all answers or is given up well within the 5 seconds of
    // the contract. Waiting for the pool and connecting share the first.
    // Nothing that the service does leaves anything in a session to reset.
    internal const string ServiceDefaults =
        "Application Name=calcom-accounts;Timeout=2;Command Timeout=2;Cancellation Timeout=500;No Reset On Close=true;";

    // Within the 15 seconds in which a migration that can't be done has to say so.
    internal const string MigrationDefaults = "Application Name=calcom-accounts-migrate;Timeout=5;Pooling=false;";

    /// <exception cref="StartupException">It is not a connection string; the message does not repeat it.</exception>
    internal static NpgsqlConnectionStringBuilder Parse(string connectionString, string defaults)
    {
        try
        {
            var parsed = new NpgsqlConnectionStringBuilder(defaults + connectionString);
            return string.IsNullOrWhiteSpace(parsed.Host)
                ? throw new StartupException($"{Key} names no Host")
                : parsed;
        }
        catch (ArgumentException exception)
        {
            throw new StartupException($"{Key} is not an Npgsql connection string, such as \"Host=db;Database=platform;Username=calcom_service;Password=…\"", exception);
        }
    }

    /// <summary>The server and database, without user and password.</summary>
    internal static string Describe(NpgsqlConnectionStringBuilder server) =>
        $"{server.Host}:{server.Port}, database {server.Database ?? server.Username ?? "of the user's name"}";
}
