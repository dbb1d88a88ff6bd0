using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>
/// The database reported an error, or its rows could not be read. The message has no text of the database or of a library, because
/// these may quote values, credentials included: docs/adr/0006-no-details-of-database-errors.md.
/// </summary>
public sealed class DatabaseException : Exception
{
    private DatabaseException(string message, string? sqlState, bool hasEndedSession)
        : base(message) => (SqlState, HasEndedSession) = (sqlState, hasEndedSession);

    /// <summary>The error's code; null when the rows could not be read.</summary>
    public string? SqlState { get; }

    /// <summary>Whether the server refused or ended the session, so that another statement would fail as well.</summary>
    internal bool HasEndedSession { get; }

    internal static DatabaseException From(Exception exception) => exception is PostgresException error
        ? new($"the database refused the statement: {DatabaseErrors.DescribeCode(error)}", error.SqlState, DatabaseErrors.EndsSession(error))
        : new($"a row's value could not be read as the expected type ({exception.GetType().Name})", sqlState: null, hasEndedSession: false);

    /// <summary>A copy to throw for another request, with a stack trace of its own.</summary>
    internal DatabaseException Copy() => new(Message, SqlState, HasEndedSession);
}
