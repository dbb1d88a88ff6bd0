using Dapper;
using DbUp;
using DbUp.Engine;
using DbUp.Engine.Output;
using DbUp.Engine.Transactions;
using DbUp.Postgresql;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>Migrates a database to the current schema, by the SQL files in <c>Migrations</c>, each once, in the order of their numbers.</summary>
public static class DatabaseMigrator
{
    // The embedded resources' names, which the journal of migrated databases has stored.
    private const string ScriptPrefix = "CalcomAccounts.Infrastructure.Sql.";

    // An arbitrary number that no other application uses for an advisory lock.
    private const long LockKey = 0x43616C636F6D;

    private const string SessionSql = "set lock_timeout = '6s'; set idle_in_transaction_session_timeout = 0";

    /// <summary>Applies all missing files in one transaction, and returns their names.</summary>
    /// <exception cref="StartupException">The server can't be reached, or reported an error.</exception>
    public static async Task<IReadOnlyList<string>> MigrateAsync(string connectionString, CancellationToken cancellationToken)
    {
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.MigrationDefaults);
        try
        {
            var builder = new NpgsqlDataSourceBuilder(server.ConnectionString);
            builder.UsePhysicalConnectionInitializer(session => session.Execute(SessionSql), session => session.ExecuteAsync(SessionSql));
            await using var dataSource = builder.Build();

            // A second migration at the same time waits for the lock, and then finds nothing to do. The lock belongs to a transaction rather
            // than to the session, because behind PgBouncer other clients may get the session.
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
                .WithScriptsEmbeddedInAssembly(typeof(DatabaseMigrator).Assembly, IsMigration)
                .WithTransaction()
                .WithVariablesDisabled()
                .JournalTo((connections, log) => new Journal(connections, log))
                .LogToNowhere()
                .Build()
                .PerformUpgrade();
            return result.Successful
                ? [.. result.Scripts.Select(FileName)]
                : throw Failure(server, result.ErrorScript is { } script ? $"{FileName(script)}: {DescribeFailure(result.Error)}" : DescribeFailure(result.Error));
        }
        catch (Exception exception) when (exception is not (OperationCanceledException or StartupException))
        {
            throw Failure(server, DescribeFailure(exception));
        }
    }

    private static StartupException Failure(NpgsqlConnectionStringBuilder server, string cause) =>
        new($"could not migrate {ConnectionStrings.Describe(server)}: {cause}");

    private static bool IsMigration(string resource) =>
        resource.StartsWith(ScriptPrefix, StringComparison.Ordinal) && char.IsAsciiDigit(resource[ScriptPrefix.Length]);

    private static string FileName(SqlScript script) => script.Name[ScriptPrefix.Length..];

    private static string DescribeFailure(Exception exception) => exception switch
    {
        PostgresException { SqlState: PostgresErrorCodes.InsufficientPrivilege } error =>
            $"{DatabaseErrors.Describe(error)}; run migrate as the database's owner with CREATEROLE, or create the role calcom_reader first. Nothing was changed",
        PostgresException { SqlState: PostgresErrorCodes.LockNotAvailable } =>
            "lock timeout: another session, such as another migration, held a lock for more than 6 seconds; try again later. Nothing was changed",
        PostgresException => $"{DatabaseErrors.Describe(exception)}. Nothing was changed",
        _ => DatabaseErrors.Describe(exception),
    };

    /// <summary>The list of the applied files, in the table <c>calcom.schema_versions</c>.</summary>
    private sealed class Journal(Func<IConnectionManager> connectionManager, Func<IUpgradeLog> log)
        : PostgresqlTableJournal(connectionManager, log, "calcom", "schema_versions")
    {
        // DbUp creates the table before it runs the first file, so the schema has to be created here.
        protected override string CreateSchemaTableSql(string quotedPrimaryKeyName) =>
            $"create schema if not exists calcom; {base.CreateSchemaTableSql(quotedPrimaryKeyName)}";
    }
}
