using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>Whether the database is a PostgreSQL that the service knows.</summary>
public sealed class ServerVersion(NpgsqlDataSource dataSource)
{
    /// <summary>The oldest major version of PostgreSQL that will do.</summary>
    internal const int Oldest = 14;

    // A start does not wait longer for a database that is away: readiness asks again.
    private static readonly TimeSpan s_timeoutAtStart = TimeSpan.FromSeconds(1);

    /// <returns>What is wrong with the version of the server that answers, in a line; null if nothing is.</returns>
    /// <exception cref="NpgsqlException">No server answers.</exception>
    public async Task<string?> FindFaultAsync(CancellationToken cancellationToken)
    {
        // Told by the server with each new session, so that nothing is asked here.
        await using var connection = await dataSource.OpenConnectionAsync(cancellationToken);
        return FindFault(connection.PostgreSqlVersion);
    }

    /// <summary>Asks before the service starts; where the database is away, the service comes up and waits for it.</summary>
    /// <exception cref="StartupException">It answers, and is too old.</exception>
    public async Task CheckAtStartAsync()
    {
        using var timeout = new CancellationTokenSource(s_timeoutAtStart);
        try
        {
            if (await FindFaultAsync(timeout.Token).WaitAsync(timeout.Token) is { } fault)
            {
                throw new StartupException($"can't serve from {ConnectionStrings.Describe(new(dataSource.ConnectionString))}: {fault}");
            }
        }
        catch (Exception exception) when (exception is not StartupException)
        {
            // No reason not to start: readiness says what is wrong.
        }
    }

    internal static string? FindFault(Version version) =>
        version.Major < Oldest ? $"PostgreSQL {version}; it has to be {Oldest} or newer" : null;
}
