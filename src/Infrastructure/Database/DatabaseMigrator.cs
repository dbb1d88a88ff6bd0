using System.Diagnostics;
using Dapper;
using DbUp;
using DbUp.Engine;
using DbUp.Engine.Output;
using DbUp.Engine.Transactions;
using DbUp.Postgresql;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>
/// Migrates a database to the current schema, by the SQL files in <c>Migrations</c>, each once, in the order of their numbers, and in a
/// transaction of its own: slow files lock out no readers, and those that do are quick.
/// </summary>
public static class DatabaseMigrator
{
    // The embedded resources' names, which the journal of migrated databases has stored.
    private const string ScriptPrefix = "CalcomAccounts.Infrastructure.Sql.";

    // An arbitrary number that no other application uses for an advisory lock.
    private const long LockKey = 0x43616C636F6D;

    // Longer than deadlock_timeout, after which PostgreSQL ends an autovacuum that holds a lock up. A file that locks out readers, who wait
    // behind it while it waits itself, sets a shorter one.
    private const string SessionSql = "set lock_timeout = '1500ms'; set statement_timeout = 0; set idle_in_transaction_session_timeout = 0";

    private static readonly TimeSpan s_maxLockWait = TimeSpan.FromSeconds(6);

    // A file may also have run for a while before it met the lock.
    private static readonly TimeSpan s_maxLockWaitOfAttempt = TimeSpan.FromSeconds(1.5);

    private static readonly TimeSpan s_retryDelay = TimeSpan.FromMilliseconds(100);

    /// <summary>Applies all missing files, and returns their names.</summary>
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
                $"set local lock_timeout = '{s_maxLockWait.TotalSeconds}s'; select pg_advisory_xact_lock({LockKey})",
                transaction: transaction,
                commandTimeout: 8,
                cancellationToken: cancellationToken));

            return await ApplyAsync(server, CreateEngine(dataSource), cancellationToken);
        }
        catch (Exception exception) when (exception is not (OperationCanceledException or StartupException))
        {
            throw Failure(server, DescribeFailure(exception));
        }
    }

    private static UpgradeEngine CreateEngine(NpgsqlDataSource dataSource) => DeployChanges.To
        .PostgresqlDatabase(new PostgresqlConnectionManager(dataSource))
        .WithScriptsEmbeddedInAssembly(typeof(DatabaseMigrator).Assembly, IsMigration)
        .WithTransactionPerScript()
        .WithExecutionTimeout(TimeSpan.FromHours(1))
        .WithVariablesDisabled()
        .JournalTo((connections, log) => new Journal(connections, log))
        .LogToNowhere()
        .Build();

    private static async Task<IReadOnlyList<string>> ApplyAsync(
        NpgsqlConnectionStringBuilder server, UpgradeEngine engine, CancellationToken cancellationToken)
    {
        var applied = new List<string>();
        var waited = TimeSpan.Zero;
        while (true)
        {
            var started = Stopwatch.GetTimestamp();
            var result = engine.PerformUpgrade();
            applied.AddRange(result.Scripts.Select(FileName));
            if (result.Successful)
            {
                return applied;
            }

            var lastWait = TimeSpan.FromTicks(Math.Min(Stopwatch.GetElapsedTime(started).Ticks, s_maxLockWaitOfAttempt.Ticks)) + s_retryDelay;
            waited = result.Scripts.Any() ? lastWait : waited + lastWait;
            if (result.Error is PostgresException { SqlState: PostgresErrorCodes.LockNotAvailable or PostgresErrorCodes.DeadlockDetected } && waited < s_maxLockWait)
            {
                await Task.Delay(s_retryDelay, cancellationToken);
                continue;
            }

            var file = result.ErrorScript is { } script ? $"{FileName(script)}: " : "";
            throw Failure(server, $"{file}{DescribeFailure(result.Error)}. {(applied is [] ? "Nothing was changed" : $"Applied before: {string.Join(", ", applied)}")}");
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
            $"{DatabaseErrors.Describe(error)}; run migrate as the database's owner with CREATEROLE, or create the role calcom_reader first",
        PostgresException { SqlState: PostgresErrorCodes.LockNotAvailable } =>
            "lock timeout: another session, such as another migration, held a lock for more than 6 seconds; try again later",
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
