using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>
/// The database refused a statement, or its rows could not be read. Nothing that the database or a library says of rows is in it: their
/// messages, details, hints and contexts may quote values, credentials included.
/// </summary>
public sealed class DatabaseException : Exception
{
    // PostgreSQL's identifiers are no longer: whatever is, is none.
    private const int LongestName = 63;

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

    /// <summary>
    /// Whether an error ends its session. A code alone does not tell, as a view may raise any; and PgBouncer, which names no routine, calls
    /// its own end of a session an error like others.
    /// </summary>
    internal static bool EndsSession(PostgresException error) => error.InvariantSeverity is not "ERROR" || error.Routine is null;

    /// <summary>What the error's code means, where it is one that is usual here, the code, and the names that the error gives, which are no data.</summary>
    internal static string Describe(PostgresException error)
    {
        var names = string.Join(", ", new[]
        {
            ("SQLSTATE", error.SqlState),
            ("relation", error.TableName),
            ("column", error.ColumnName),
            ("constraint", error.ConstraintName),
            ("routine", error.Routine),
        }.Where(part => part.Item2 is { Length: > 0 and <= LongestName }).Select(part => $"{part.Item1} {part.Item2}"));
        return Meaning(error.SqlState) is { } meaning ? $"{meaning} ({names})" : names;
    }

    private static string? Meaning(string sqlState) => sqlState switch
    {
        PostgresErrorCodes.InvalidCatalogName => "the database does not exist",
        PostgresErrorCodes.InvalidPassword or PostgresErrorCodes.InvalidAuthorizationSpecification => "the login was refused",
        PostgresErrorCodes.TooManyConnections => "too many connections",
        PostgresErrorCodes.CannotConnectNow => "the server is starting up or shutting down",
        PostgresErrorCodes.AdminShutdown or PostgresErrorCodes.CrashShutdown => "the server ended the session",
        PostgresErrorCodes.ProtocolViolation => "the server, or a pooler before it, refused the connection or lost it",
        PostgresErrorCodes.UndefinedTable => "a relation does not exist",
        PostgresErrorCodes.DuplicateTable => "a relation of that name exists already",
        PostgresErrorCodes.UndefinedColumn => "a column does not exist",
        PostgresErrorCodes.UndefinedFunction => "a function or an operator does not exist",
        PostgresErrorCodes.InvalidSchemaName => "a schema does not exist",
        PostgresErrorCodes.InsufficientPrivilege => "permission denied",
        PostgresErrorCodes.QueryCanceled => "the statement was cancelled, or took too long",
        PostgresErrorCodes.LockNotAvailable => "a lock was not to be had in time",
        PostgresErrorCodes.DeadlockDetected => "deadlock",
        PostgresErrorCodes.ReadOnlySqlTransaction => "the session is read-only",
        PostgresErrorCodes.FeatureNotSupported => "the server does not support this, or its schema has changed meanwhile",
        PostgresErrorCodes.DivisionByZero => "division by zero",
        PostgresErrorCodes.InvalidTextRepresentation => "a text can't be read as the type that it is cast to",
        PostgresErrorCodes.RaiseException => "a function raised an exception",
        PostgresErrorCodes.DiskFull => "the server's disk is full",
        PostgresErrorCodes.OutOfMemory => "the server is out of memory",
        _ => null,
    };
}
