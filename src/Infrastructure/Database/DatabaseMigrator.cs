using Dapper;
using DbUp;
using DbUp.Engine;
using DbUp.Engine.Output;
using DbUp.Engine.Transactions;
using DbUp.Postgresql;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>Brings a database to the current schema: the SQL files of this assembly, each once, in the order of their numbers.</summary>
public static class DatabaseMigrator
{
    private const string ScriptPrefix = "CalcomAccounts.Infrastructure.Sql.";

    // Any constant will do, as long as nothing else in the database locks it.
    private const long LockKey = 0x43616C636F6D;

    private const string SessionSql = "set lock_timeout = '6s'; set idle_in_transaction_session_timeout = 0";

    /// <summary>Applies what is missing, all of it or nothing, and returns the names of the files applied.</summary>
    /// <exception cref="StartupException">The server is out of reach, or refused a step.</exception>
    public static async Task<IReadOnlyList<string>> MigrateAsync(string connectionString, CancellationToken cancellationToken)
    {
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.MigrationDefaults);
        try
        {
            var builder = new NpgsqlDataSourceBuilder(server.ConnectionString);
            builder.UsePhysicalConnectionInitializer(session => session.Execute(SessionSql), session => session.ExecuteAsync(SessionSql));
            await using var dataSource = builder.Build();

            // Two migrations at once would both find the first step missing: the second waits, then finds nothing to do. The lock ends
            // with a transaction, as behind PgBouncer a session goes on with others.
            await using var connection = await dataSource.OpenConnectionAsync(cancellationToken);
            if (ServerVersion.FindFault(connection.PostgreSqlVersion) is { } fault)
            {
                throw Failure(server, fault);
            }

            await using var transaction = await connection.BeginTransactionAsync(cancellationToken);
            await connection.ExecuteAsync(new CommandDefinition(
                "select pg_advisory_xact_lock(@LockKey)", new { LockKey }, transaction, commandTimeout: 8, cancellationToken: cancellationToken));

            var result = DeployChanges.To
                .PostgresqlDatabase(new PostgresqlConnectionManager(dataSource))
                .WithScriptsEmbeddedInAssembly(typeof(DatabaseMigrator).Assembly, IsStep)
                .WithTransaction()
                .WithVariablesDisabled()
                .JournalTo((connections, log) => new Journal(connections, log))
                .LogToNowhere()
                .Build()
                .PerformUpgrade();
            return result.Successful
                ? [.. result.Scripts.Select(FileName)]
                : throw Failure(server, result.ErrorScript is { } script ? $"{FileName(script)}: {Explain(result.Error)}" : Explain(result.Error));
        }
        catch (Exception exception) when (exception is not (OperationCanceledException or StartupException))
        {
            throw Failure(server, Explain(exception));
        }
    }

    private static StartupException Failure(NpgsqlConnectionStringBuilder server, string cause) =>
        new($"could not migrate {ConnectionStrings.Describe(server)}: {cause}");

    private static bool IsStep(string resource) =>
        resource.StartsWith(ScriptPrefix, StringComparison.Ordinal) && char.IsAsciiDigit(resource[ScriptPrefix.Length]);

    private static string FileName(SqlScript script) => script.Name[ScriptPrefix.Length..];

    private static string Explain(Exception exception) => exception switch
    {
        PostgresException { SqlState: PostgresErrorCodes.InsufficientPrivilege } refusal =>
            $"{ConnectionStrings.Explain(refusal)}; migrate as the database's owner with CREATEROLE, or have the role calcom_reader created first. Nothing was changed",
        PostgresException { SqlState: PostgresErrorCodes.LockNotAvailable } =>
            "it waited 6 seconds for a lock of somebody else, perhaps of another migration; try again when that has ended. Nothing was changed",
        PostgresException => $"{ConnectionStrings.Explain(exception)}. Nothing was changed",
        _ => ConnectionStrings.Explain(exception),
    };

    /// <summary>Remembers in <c>calcom.schema_versions</c> which files were applied.</summary>
    private sealed class Journal(Func<IConnectionManager> connectionManager, Func<IUpgradeLog> log)
        : PostgresqlTableJournal(connectionManager, log, "calcom", "schema_versions")
    {
        // DbUp makes its table before it runs the first file, in the same transaction; the schema has to be there by then.
        protected override string CreateSchemaTableSql(string quotedPrimaryKeyName) =>
            $"create schema if not exists calcom; {base.CreateSchemaTableSql(quotedPrimaryKeyName)}";
    }
}
