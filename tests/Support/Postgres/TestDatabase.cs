using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>A database of the contract's four relations, and how to put rows into it.</summary>
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

    /// <summary>Connects as a login that is <c>calcom_reader</c> and nothing else.</summary>
    public string ServiceConnectionString => new NpgsqlConnectionStringBuilder(OwnerConnectionString)
    {
        Username = ServiceLogin,
        Password = ServicePassword,
    }.ConnectionString;

    /// <summary>The service's own tables, made by its own migration.</summary>
    public static Task<TestDatabase> OfTablesAsync(PostgresServer server) => OfTablesAsync(server.ConnectionString);

    public static async Task<TestDatabase> OfTablesAsync(string superuserConnectionString)
    {
        var database = new TestDatabase(await PostgresServer.CreateDatabaseAsync(superuserConnectionString), isViews: false);
        await DatabaseMigrator.MigrateAsync(database.OwnerConnectionString, CancellationToken.None);
        await database.CreateServiceLoginAsync();
        return database;
    }

    /// <summary>A platform's own tables, without a constraint, under the views that docs/database.md shows.</summary>
    public static async Task<TestDatabase> OfViewsAsync(PostgresServer server)
    {
        var database = new TestDatabase(await server.CreateDatabaseAsync(), isViews: true);
        await database.ExecuteAsync("""
            create table public.assistants (id uuid, workspace_id uuid, title text, calendar_id uuid, archived_at timestamptz);
            create table public.assistant_secrets (
                id uuid, assistant_id uuid, label text, secret text, base_url text, state text, created_at timestamptz);
            create table public.calendars (
                id uuid, workspace_id uuid, label text, oauth_token text, base_url text, state text, created_at timestamptz);
            create table public.workspace_users (workspace_id uuid, user_id text);
            """);
        await database.ExecuteAsync(Docs.Block("docs/database.md", "sql", "create view"));
        await database.CreateServiceLoginAsync();
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
                ? "insert into public.assistant_secrets values (@Id, @agentId, @Name, @ApiKey, @ApiBaseUrl, @Status, @CreatedAt)"
                : """
                  insert into calcom.agent_keys (id, agent_id, account_name, api_key, api_base_url, status, created_at)
                  values (@Id, @agentId, @Name, @ApiKey, @ApiBaseUrl, @Status, @CreatedAt)
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

    public async Task ExecuteAsync(string sql, object? parameters = null)
    {
        // A million rows take their time where the machine has other things to do.
        await using var connection = new NpgsqlConnection(OwnerConnectionString);
        await connection.ExecuteAsync(sql, parameters, commandTimeout: 300);
    }

    public async Task<IReadOnlyList<T>> QueryAsync<T>(string sql, object? parameters = null)
    {
        await using var connection = new NpgsqlConnection(OwnerConnectionString);
        return (await connection.QueryAsync<T>(sql, parameters)).AsList();
    }

    private Task CreateServiceLoginAsync() => ExecuteAsync($"""
        do $$ begin
            create role {ServiceLogin} login password '{ServicePassword}' in role calcom_reader;
        exception when duplicate_object or unique_violation then null;
        end $$
        """);
}

/// <summary>A row of <c>agent_keys</c> or <c>org_accounts</c>; by default one that is connected and has nothing blank.</summary>
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
