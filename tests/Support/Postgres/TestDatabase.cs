using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>A database with the four relations of docs/database.md, and methods that insert rows.</summary>
internal sealed class TestDatabase
{
    public const string ServiceLogin = "calcom_test_service";
    public const string ServicePassword = "only-in-tests";
    private readonly bool _isViews;

    static TestDatabase()
    {
        LeakDetector.Watch(ServicePassword);
        LeakDetector.Watch(new StoredAccount().ApiKey!);
    }

    private TestDatabase(string ownerConnectionString, bool isViews) =>
        (OwnerConnectionString, _isViews) = (ownerConnectionString, isViews);

    public string OwnerConnectionString { get; }

    /// <summary>Connects as a login with the role <c>calcom_reader</c> only.</summary>
    public string ServiceConnectionString => new NpgsqlConnectionStringBuilder(OwnerConnectionString)
    {
        Username = ServiceLogin,
        Password = ServicePassword,
    }.ConnectionString;

    /// <summary>Creates a database with the service's own tables.</summary>
    public static async Task<TestDatabase> OfTablesAsync(PostgresServer server) => new(await server.CreateMigratedDatabaseAsync(), isViews: false);

    public static async Task<TestDatabase> OfTablesAsync(string superuserConnectionString)
    {
        var database = new TestDatabase(await PostgresServer.CreateDatabaseAsync(superuserConnectionString), isViews: false);
        await DatabaseMigrator.MigrateAsync(database.OwnerConnectionString, CancellationToken.None);
        await CreateServiceLoginAsync(superuserConnectionString);
        return database;
    }

    /// <summary>Creates a database with the service's own tables as an earlier version had them.</summary>
    /// <param name="server">Where to create it.</param>
    /// <param name="lastFile">Of the migrations that it has.</param>
    public static async Task<TestDatabase> OfEarlierTablesAsync(PostgresServer server, string lastFile)
    {
        const string Prefix = "CalcomAccounts.Infrastructure.Sql.";
        var database = new TestDatabase(await server.CreateDatabaseAsync(), isViews: false);
        var assembly = typeof(DatabaseMigrator).Assembly;
        await database.ExecuteAsync("""
            create schema calcom;
            create table calcom.schema_versions (
                schemaversionsid serial constraint "PK_schema_versions_Id" primary key, scriptname varchar(255) not null, applied timestamp not null)
            """);
        foreach (var script in assembly.GetManifestResourceNames().Where(name => name.StartsWith(Prefix, StringComparison.Ordinal) && char.IsAsciiDigit(name[Prefix.Length])).Order(StringComparer.Ordinal))
        {
            using var content = new StreamReader(assembly.GetManifestResourceStream(script)!);
            await database.ExecuteAsync($"begin; {await content.ReadToEndAsync()}; commit");
            await database.ExecuteAsync("insert into calcom.schema_versions (scriptname, applied) values (@script, '2026-01-01')", new { script });
            if (script == $"{Prefix}{lastFile}")
            {
                break;
            }
        }

        await CreateServiceLoginAsync(server.ConnectionString);
        return database;
    }

    /// <summary>Creates a migrated database without connections, from which others are copied, and the login of the service.</summary>
    /// <returns>The template's name.</returns>
    public static async Task<string> CreateMigratedTemplateAsync(PostgresServer server)
    {
        var template = await server.CreateDatabaseAsync();
        await DatabaseMigrator.MigrateAsync(template, CancellationToken.None);
        await CreateServiceLoginAsync(server.ConnectionString);
        return new NpgsqlConnectionStringBuilder(template).Database!;
    }

    /// <summary>
    /// Creates a database with the service's own tables, each in four partitions by organization, and without foreign keys. PostgreSQL
    /// demands of these tables what Citus demands: that every unique index has the organization.
    /// </summary>
    public static async Task<TestDatabase> OfPartitionsAsync(PostgresServer server)
    {
        var database = await OfTablesAsync(server);
        await database.ExecuteAsync("""
            do $$
            declare name text;
            begin
                foreach name in array array['agents', 'agent_keys', 'org_accounts', 'org_members'] loop
                    execute format('alter table calcom.%1$s rename to %1$s_whole', name);
                    execute format('create table calcom.%1$s (like calcom.%1$s_whole including all) partition by hash (org_id)', name);
                    for i in 0..3 loop
                        execute format('create table calcom.%1$s_%2$s partition of calcom.%1$s for values with (modulus 4, remainder %2$s)', name, i);
                    end loop;
                end loop;
            end $$;
            drop table calcom.agent_keys_whole, calcom.agents_whole, calcom.org_accounts_whole, calcom.org_members_whole;
            grant select on calcom.agents, calcom.org_members to calcom_reader;
            grant select (id, org_id, agent_id, account_name, has_api_key, api_base_url, status, created_at) on calcom.agent_keys to calcom_reader;
            grant select (id, org_id, account_name, has_api_key, api_base_url, status, created_at) on calcom.org_accounts to calcom_reader;
            """);
        return database;
    }

    /// <summary>Creates a database with tables of a platform, without constraints, under the views of docs/database.md.</summary>
    public static async Task<TestDatabase> OfViewsAsync(PostgresServer server)
    {
        var database = new TestDatabase(await server.CreateDatabaseAsync(), isViews: true);
        await database.ExecuteAsync("""
            create table public.assistants (id uuid, workspace_id uuid, title text, calendar_id uuid, archived_at timestamptz);
            create table public.assistant_secrets (
                id uuid, workspace_id uuid, assistant_id uuid, label text, secret text, base_url text, state text, created_at timestamptz);
            create table public.calendars (
                id uuid, workspace_id uuid, label text, oauth_token text, base_url text, state text, created_at timestamptz);
            create table public.workspace_users (workspace_id uuid, user_id text);
            """);
        await database.ExecuteAsync(Docs.Block("docs/database.md", "sql", "create view"));
        await CreateServiceLoginAsync(server.ConnectionString);
        return database;
    }

    public async Task<Guid> AddAgentAsync(Guid orgId, Guid? orgAccountId = null, bool deleted = false)
    {
        var id = Guid.NewGuid();
        await ExecuteAsync(
            _isViews
                ? "insert into public.assistants values (@id, @orgId, 'agent', @orgAccountId, @deletedAt)"
                : "insert into calcom.agents values (@id, @orgId, 'agent', @orgAccountId, @deletedAt)",
            new { id, orgId, orgAccountId, deletedAt = deleted ? DateTime.UtcNow : (DateTime?)null });
        return id;
    }

    public async Task<Guid> AddKeyAsync(Guid agentId, StoredAccount account)
    {
        await ExecuteAsync(
            _isViews
                ? """
                  insert into public.assistant_secrets
                  select @Id, workspace_id, id, @Name, @ApiKey, @ApiBaseUrl, @Status, @CreatedAt from public.assistants where id = @agentId
                  """
                : """
                  insert into calcom.agent_keys (id, org_id, agent_id, account_name, api_key, api_base_url, status, created_at)
                  select @Id, org_id, id, @Name, @ApiKey, @ApiBaseUrl, @Status, @CreatedAt from calcom.agents where id = @agentId
                  """,
            account.With(new { agentId }));
        return account.Id;
    }

    public async Task<Guid> AddOrgAccountAsync(Guid orgId, StoredAccount account)
    {
        await ExecuteAsync(
            _isViews
                ? "insert into public.calendars values (@Id, @orgId, @Name, @ApiKey, @ApiBaseUrl, @Status, @CreatedAt)"
                : """
                  insert into calcom.org_accounts (id, org_id, account_name, api_key, api_base_url, status, created_at)
                  values (@Id, @orgId, @Name, @ApiKey, @ApiBaseUrl, @Status, @CreatedAt)
                  """,
            account.With(new { orgId }));
        return account.Id;
    }

    public Task AddMemberAsync(Guid orgId, string subject) => ExecuteAsync(
        _isViews
            ? "insert into public.workspace_users values (@orgId, @subject)"
            : "insert into calcom.org_members values (@orgId, @subject)",
        new { orgId, subject });

    /// <summary>From now on a statement that reads an agent named <c>slow</c> sleeps, and one that reads an agent named <c>failing</c> fails.</summary>
    public Task HeedNamesOfAgentsAsync() => ExecuteAsync("""
        alter table calcom.agents rename to agents_table;
        create view calcom.agents as
            select id, org_id, name, org_account_id, deleted_at from calcom.agents_table
            where case name when 'slow' then length(pg_sleep(30)::text) = 0 when 'failing' then 1 / (length(name) - 7) = 1 else true end;
        grant select on calcom.agents to calcom_reader;
        analyze
        """);

    /// <summary>Locks the table until the lock is disposed, so that statements on it wait.</summary>
    public async Task<IAsyncDisposable> LockAsync(string table)
    {
        var connection = new NpgsqlConnection(OwnerConnectionString + ";Pooling=false");
        await connection.OpenAsync();
        await connection.ExecuteAsync($"begin; lock table calcom.{table}");
        return connection;
    }

    public async Task ExecuteAsync(string sql, object? parameters = null)
    {
        // Inserting many rows may take long on a busy machine.
        await using var connection = Connect();
        await connection.ExecuteAsync(sql, parameters, commandTimeout: 300);
    }

    public async Task<IReadOnlyList<T>> QueryAsync<T>(string sql, object? parameters = null)
    {
        await using var connection = Connect();
        return (await connection.QueryAsync<T>(sql, parameters)).AsList();
    }

    private NpgsqlConnection Connect() => new($"{OwnerConnectionString};Connection Idle Lifetime=4;Connection Pruning Interval=2");

    private static async Task CreateServiceLoginAsync(string superuserConnectionString)
    {
        await using var connection = new NpgsqlConnection(superuserConnectionString);
        await connection.ExecuteAsync($"""
            do $$ begin
                create role {ServiceLogin} login password '{ServicePassword}' in role calcom_reader;
            exception when duplicate_object or unique_violation then null;
            end $$
            """);
    }
}

/// <summary>A row of <c>agent_keys</c> or <c>org_accounts</c>; by default connected and without blank values.</summary>
internal sealed record StoredAccount
{
    public Guid Id { get; init; } = Guid.NewGuid();

    public string? Name { get; init; } = "Calendar";

    public string? ApiKey { get; init; } = "cal_secret_0123456789";

    public string? ApiBaseUrl { get; init; } = "https://cal.example/api";

    public string? Status { get; init; } = "active";

    public DateTime CreatedAt { get; init; } = new(2026, 1, 2, 3, 4, 5, DateTimeKind.Utc);

    public DynamicParameters With(object owner)
    {
        var parameters = new DynamicParameters(this);
        parameters.AddDynamicParams(owner);
        return parameters;
    }
}
