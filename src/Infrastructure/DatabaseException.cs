using Npgsql;

namespace CalcomAccounts.Infrastructure;

/// <summary>
/// The database refused a statement, or its rows could not be read. Nothing that the database or a library says of rows is in it: their
/// messages, details, hints and contexts may quote values, credentials included.
/// </summary>
public sealed class DatabaseException : Exception
{
    private DatabaseException(string message, string? sqlState, bool hasEndedSession)
        : base(message) => (SqlState, HasEndedSession) = (sqlState, hasEndedSession);

    /// <summary>The error's code; null where the rows that came could not be read as what they have to be.</summary>
    public string? SqlState { get; }

    /// <summary>Whether the server refused or ended the session, rather than the statement: then no other statement would do better.</summary>
    internal bool HasEndedSession { get; }

    /// <summary>The same failure without what may quote a row.</summary>
    internal static DatabaseException From(Exception exception) => exception is PostgresException error
        ? new($"the database refused the statement: {Describe(error)}", error.SqlState, EndsSession(error))
        : new($"the rows could not be read as what they have to be ({exception.GetType().Name})", sqlState: null, hasEndedSession: false);

    /// <summary>One more of the same, for another request: the stack trace of one that is thrown again and again grows.</summary>
    internal DatabaseException Copy() => new(Message, SqlState, HasEndedSession);

    /// <summary>The error's code and the names that it gives, which are no data.</summary>
    internal static string Describe(PostgresException error) => string.Join(", ", new[]
    {
        ("SQLSTATE", error.SqlState),
        ("relation", error.TableName),
        ("column", error.ColumnName),
        ("constraint", error.ConstraintName),
        ("routine", error.Routine),
    }.Where(part => !string.IsNullOrEmpty(part.Item2)).Select(part => $"{part.Item1} {part.Item2}"));

    /// <summary>
    /// Whether an error ends its session. A code alone does not tell, as a view may raise any; and PgBouncer, which names no routine, calls
    /// its own end of a session an error like others.
    /// </summary>
    internal static bool EndsSession(PostgresException error) => error.InvariantSeverity is not "ERROR" || error.Routine is null;
}
