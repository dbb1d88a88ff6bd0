using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>
/// Describes database errors by their SQLSTATE and the names of schema objects only: docs/adr/0006-no-details-of-database-errors.md.
/// </summary>
public static class DatabaseErrors
{
    // PostgreSQL's limit for identifiers; anything longer is not one.
    private const int MaxIdentifierLength = 63;

    /// <summary>The cause of an exception in one line.</summary>
    public static string Describe(Exception exception) => exception switch
    {
        PostgresException { SqlState: PostgresErrorCodes.ProtocolViolation } error when error.MessageText.Contains("startup parameter", StringComparison.Ordinal) =>
            "unsupported startup parameter (SQLSTATE 08P01); behind PgBouncer the connection string needs Options=, as in docs/scaling.md",
        PostgresException error => DescribeCode(error),
        AggregateException several => string.Join("; ", several.InnerExceptions.Select(Describe).Distinct()),
        { InnerException: { } cause } => $"{exception.Message} ({Describe(cause)})",
        _ => exception.Message,
    };

    /// <summary>The error's SQLSTATE, what it means if it is a usual one, and the names of the schema objects concerned.</summary>
    internal static string DescribeCode(PostgresException error)
    {
        var names = string.Join(", ", new[]
        {
            ("SQLSTATE", error.SqlState),
            ("relation", error.TableName),
            ("column", error.ColumnName),
            ("constraint", error.ConstraintName),
            ("routine", error.Routine),
        }.Where(part => part.Item2 is { Length: > 0 and <= MaxIdentifierLength }).Select(part => $"{part.Item1} {part.Item2}"));
        return MeaningOf(error.SqlState) is { } meaning ? $"{meaning} ({names})" : names;
    }

    /// <summary>
    /// Whether the error ended its session. The SQLSTATE does not say so, because a view may raise any; and PgBouncer reports the end of a
    /// session with severity <c>ERROR</c>, but without a routine.
    /// </summary>
    internal static bool EndsSession(PostgresException error) => error.InvariantSeverity is not "ERROR" || error.Routine is null;

    private static string? MeaningOf(string sqlState) => sqlState switch
    {
        PostgresErrorCodes.InvalidCatalogName => "the database does not exist",
        PostgresErrorCodes.InvalidPassword or PostgresErrorCodes.InvalidAuthorizationSpecification => "the login was refused",
        PostgresErrorCodes.TooManyConnections => "too many connections",
        PostgresErrorCodes.CannotConnectNow => "the server is starting up or shutting down",
        PostgresErrorCodes.AdminShutdown or PostgresErrorCodes.CrashShutdown => "the server ended the session",
        PostgresErrorCodes.ProtocolViolation => "the server or a connection pooler refused or closed the connection",
        PostgresErrorCodes.UndefinedTable => "a relation does not exist",
        PostgresErrorCodes.DuplicateTable => "a relation of that name exists already",
        PostgresErrorCodes.UndefinedColumn => "a column does not exist",
        PostgresErrorCodes.UndefinedFunction => "a function or an operator does not exist",
        PostgresErrorCodes.InvalidSchemaName => "a schema does not exist",
        PostgresErrorCodes.DependentObjectsStillExist => "other objects depend on it",
        PostgresErrorCodes.InsufficientPrivilege => "permission denied",
        PostgresErrorCodes.QueryCanceled => "the statement was cancelled or timed out",
        PostgresErrorCodes.LockNotAvailable => "lock timeout",
        PostgresErrorCodes.DeadlockDetected => "deadlock",
        PostgresErrorCodes.ReadOnlySqlTransaction => "the session is read-only",
        PostgresErrorCodes.FeatureNotSupported => "the server does not support this, or the schema has changed",
        PostgresErrorCodes.DivisionByZero => "division by zero",
        PostgresErrorCodes.InvalidTextRepresentation => "a text is not valid for the type that it is cast to",
        PostgresErrorCodes.RaiseException => "a function raised an exception",
        PostgresErrorCodes.DiskFull => "the server's disk is full",
        PostgresErrorCodes.OutOfMemory => "the server is out of memory",
        _ => null,
    };
}
