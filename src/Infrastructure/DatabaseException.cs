using Npgsql;

namespace CalcomAccounts.Infrastructure;

/// <summary>
/// The database refused a statement, or its rows could not be read. Nothing that the database or a library says of rows is in it: their
/// messages, details, hints and contexts may quote values, credentials included.
/// </summary>
public sealed class DatabaseException : Exception
{
    private DatabaseException(string message, string? sqlState)
        : base(message) => SqlState = sqlState;

    /// <summary>The error's code; null where the rows that came could not be read as what they have to be.</summary>
    public string? SqlState { get; }

    /// <summary>The same failure without what may quote a row.</summary>
    internal static DatabaseException From(Exception exception) => exception is PostgresException error
        ? new($"the database refused the statement: {Describe(error)}", error.SqlState)
        : new($"the rows could not be read as what they have to be ({exception.GetType().Name})", sqlState: null);

    /// <summary>The error's code and the names that it gives, which are no data.</summary>
    internal static string Describe(PostgresException error) => string.Join(", ", new[]
    {
        ("SQLSTATE", error.SqlState),
        ("relation", error.TableName),
        ("column", error.ColumnName),
        ("constraint", error.ConstraintName),
        ("routine", error.Routine),
    }.Where(part => !string.IsNullOrEmpty(part.Item2)).Select(part => $"{part.Item1} {part.Item2}"));
}
