using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Diagnostics;

/// <summary>Asks a database all that the service depends on, as the service's own login: docs/database.md. It changes nothing.</summary>
public static class DatabaseCheck
{
    private const string HowToMake = "run 'migrate' as the database's owner, or make views as docs/database.md shows";

    private static readonly string[] s_uuid = ["uuid"];
    private static readonly string[] s_text = ["text", "varchar", "bpchar", "citext"];
    private static readonly string[] s_boolean = ["bool"];
    private static readonly string[] s_instant = ["timestamptz", "timestamp"];

    // docs/database.md. api_key is not among them: a view needs none.
    private static readonly Relation[] s_relations =
    [
        new("agents", [new("id", s_uuid), new("org_id", s_uuid), new("name", s_text, IsRead: false), new("org_account_id", s_uuid), new("deleted_at", s_instant)]),
        new("agent_keys", [new("id", s_uuid), new("agent_id", s_uuid), .. s_accountColumns]),
        new("org_accounts", [new("id", s_uuid), new("org_id", s_uuid), .. s_accountColumns]),
        new("org_members", [new("org_id", s_uuid), new("subject", s_text)]),
    ];

    private static Column[] s_accountColumns =>
        [new("account_name", s_text), new("has_api_key", s_boolean), new("api_base_url", s_text), new("status", s_text), new("created_at", s_instant)];

    // A domain's values are sent as its base type's.
    private const string ColumnsSql = """
        with recursive base (oid, type) as (
            select oid, typname from pg_type where typtype <> 'd'
            union all
            select domain.oid, base.type from pg_type domain join base on domain.typbasetype = base.oid
        )
        select relation.relname as relation, relation.relkind::text as kind, attribute.attname as name, base.type,
               has_column_privilege(relation.oid, attribute.attnum, 'select') is true as is_readable,
               row_security_active(relation.oid) and not exists (select from pg_policy where polrelid = relation.oid and polpermissive) as is_hidden
        from pg_class relation
        left join pg_attribute attribute on attribute.attrelid = relation.oid and attribute.attnum > 0 and not attribute.attisdropped
        left join base on base.oid = attribute.atttypid
        where relation.relnamespace = to_regnamespace('calcom') and relation.relname = any(@Relations)
        """;

    // As any role that the login is a member of, as in LoginPrivileges.
    private const string WritableSql = """
        select distinct relation.relname
        from pg_class relation
        join pg_roles role on pg_has_role(role.oid, 'member')
        where relation.relnamespace = to_regnamespace('calcom') and relation.relname = any(@Relations)
          and (has_table_privilege(role.oid, relation.oid, 'insert, update, delete, truncate')
              or has_any_column_privilege(role.oid, relation.oid, 'insert, update'))
        order by 1
        """;

    // A view may have a row twice, by a join for example.
    private const string IdsSql = """
        select relation || ': ' || count(*)
        from (
            select 'agents' as relation from calcom.agents group by id having id is null or count(*) > 1
            union all
            select 'agent_keys' from calcom.agent_keys group by id having id is null or count(*) > 1
            union all
            select 'org_accounts' from calcom.org_accounts group by id having id is null or count(*) > 1
        ) ambiguous
        group by relation
        order by relation
        """;

    private const string DataSql = $"""
        with connected as (
            select agent_id, count(*) as keys
            from calcom.agent_keys
            where {AgentReader.IsConnectedSql}
            group by agent_id
        ), agent as (
            select coalesce(connected.keys, 0) as keys, agents.org_account_id is not null as is_linked,
                   account.id is not null as has_account, account.org_id = agents.org_id as is_own
            from calcom.agents
            left join connected on connected.agent_id = agents.id
            left join calcom.org_accounts account on account.id = agents.org_account_id
            where agents.deleted_at is null
        ), account as (
            select account_name, api_base_url, status from calcom.agent_keys
            union all
            select account_name, api_base_url, status from calcom.org_accounts
        )
        select count(*) as agents,
               count(*) filter (where keys > 1) as two_connected_keys,
               count(*) filter (where keys > 0 and is_linked) as key_and_link,
               count(*) filter (where is_linked and not has_account) as dangling_link,
               count(*) filter (where has_account and not is_own) as foreign_link,
               (select count(*) from account where coalesce(account_name, '') !~ '\S') as blank_name,
               (select count(*) from account where length(account_name) > 255 or length(status) > 64 or length(api_base_url) > 2048) as long_text
        from agent
        """;

    /// <summary>Checks what it can; what depends on a check that has failed is left out.</summary>
    /// <exception cref="StartupException"><paramref name="connectionString"/> is not a connection string, or one that can't be used.</exception>
    public static async Task<DatabaseReport> RunAsync(string connectionString, CancellationToken cancellationToken)
    {
        DefaultTypeMap.MatchNamesWithUnderscores = true;
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.CheckDefaults);
        var checks = new List<DatabaseFinding>();
        DatabaseCounts? data = null;
        try
        {
            await using var dataSource = NpgsqlDataSource.Create(server);
            await using var connection = await dataSource.OpenConnectionAsync(cancellationToken);
            checks.Add(CheckServer(connection));
            if (await CheckRelationsAsync(connection, checks)
                && await CheckIdsAsync(connection, checks)
                && await CheckAnswerAsync(connection, dataSource, checks, cancellationToken))
            {
                checks.Add(await CheckPlanAsync(connection));
                data = await connection.QuerySingleAsync<DatabaseCounts>(DataSql);
            }
        }
        catch (Exception exception) when (checks is [] && exception is not OperationCanceledException)
        {
            checks.Add(new("connection", false, ConnectionStrings.Explain(exception)));
        }
        catch (Exception exception) when (exception is not OperationCanceledException)
        {
            checks.Add(new("statement", false, ExplainStatement(exception)));
        }

        return new(ConnectionStrings.Describe(server), checks, data);
    }

    private static DatabaseFinding CheckServer(NpgsqlConnection connection) => ServerVersion.FindFault(connection.PostgreSqlVersion) is { } fault
        ? new("connection", false, fault)
        : new("connection", true, $"PostgreSQL {connection.PostgreSqlVersion}");

    /// <returns>Whether the service's statement can be asked at all.</returns>
    private static async Task<bool> CheckRelationsAsync(NpgsqlConnection connection, List<DatabaseFinding> checks)
    {
        if (!await connection.ExecuteScalarAsync<bool>("select to_regnamespace('calcom') is not null"))
        {
            checks.Add(new("schema", false, $"there is no schema calcom: {HowToMake}"));
            return false;
        }

        var names = new { Relations = s_relations.Select(relation => relation.Name).ToArray() };
        var stored = (await connection.QueryAsync<StoredColumn>(ColumnsSql, names)).ToLookup(column => column.Relation);
        var found = s_relations.Select(relation => relation.Compare([.. stored[relation.Name]])).ToList();
        checks.AddRange(found);

        if (!await connection.ExecuteScalarAsync<bool>("select has_schema_privilege(to_regnamespace('calcom'), 'usage') is true"))
        {
            checks.Add(new("login_reads", false, "the login has no usage on schema calcom: grant it calcom_reader"));
            return false;
        }

        var unreadable = s_relations
            .SelectMany(relation => relation.Columns.Where(column => column.IsRead).Select(column => (Relation: relation.Name, Column: column.Name)))
            .Where(needed => stored[needed.Relation].Any(column => column.Name == needed.Column && !column.IsReadable))
            .Select(needed => $"{needed.Relation}.{needed.Column}")
            .ToList();
        checks.Add(unreadable is []
            ? new("login_reads", true, "the login can read what requests ask for")
            : new("login_reads", false, $"the login can't read {string.Join(", ", unreadable)}: grant it calcom_reader"));

        checks.Add(await connection.ExecuteScalarAsync<bool>(LoginPrivileges.CanReadApiKeySql)
            ? new("login_reads_no_key", false, "the login can read api_key: give the service one that is calcom_reader and nothing else")
            : new("login_reads_no_key", true, "the login can't read api_key"));

        var writable = (await connection.QueryAsync<string>(WritableSql, names)).AsList();
        checks.Add(writable is []
            ? new("login_writes_nothing", true, "the login can write none of them")
            : new("login_writes_nothing", false, $"the login can write {string.Join(", ", writable)}: give the service one that is calcom_reader and nothing else"));

        return found.TrueForAll(finding => finding.Ok) && unreadable is [];
    }

    private static async Task<bool> CheckIdsAsync(NpgsqlConnection connection, List<DatabaseFinding> checks)
    {
        var ambiguous = (await connection.QueryAsync<string>(IdsSql)).AsList();
        checks.Add(ambiguous is []
            ? new("ids", true, "each id is there once")
            : new("ids", false, $"ids that are null, or there more than once: {string.Join(", ", ambiguous)}"));
        return ambiguous is [];
    }

    // With rows where there are any, so that what can't be read as what it has to be is seen.
    private static async Task<bool> CheckAnswerAsync(
        NpgsqlConnection connection, NpgsqlDataSource dataSource, List<DatabaseFinding> checks, CancellationToken cancellationToken)
    {
        var sample = (await connection.QueryAsync<(Guid Id, Guid OrgId)>("""
            (select id, org_id from calcom.agents where id = (select agent_id from calcom.agent_keys limit 1) and deleted_at is null limit 1)
            union all
            (select id, org_id from calcom.agents where org_account_id is not null and deleted_at is null limit 1)
            union all
            select gen_random_uuid(), gen_random_uuid()
            """)).Select(agent => new Lookup(agent.Id, Caller.OfOrganization(agent.OrgId))).ToList();
        var started = Stopwatch.GetTimestamp();
        try
        {
            await new AgentReader(dataSource).ReadAsync(sample, cancellationToken);
        }
        catch (Exception exception) when (exception is not OperationCanceledException)
        {
            checks.Add(new("answer", false, $"what requests ask fails: {ExplainStatement(exception)}"));
            return false;
        }

        var milliseconds = Stopwatch.GetElapsedTime(started).TotalMilliseconds.ToString("0", CultureInfo.InvariantCulture);
        checks.Add(new("answer", true, $"what requests ask is answered, in {milliseconds} ms the first time"));
        return true;
    }

    // What rows can't be read as is said by libraries in messages that quote them.
    private static string ExplainStatement(Exception exception) =>
        ConnectionStrings.Explain(exception is NpgsqlException or DatabaseException ? exception : DatabaseException.From(exception));

    // Without whole scans where there is any other way, so that a table which is small today says what a big one would do.
    private static async Task<DatabaseFinding> CheckPlanAsync(NpgsqlConnection connection)
    {
        await using var transaction = await connection.BeginTransactionAsync();
        await connection.ExecuteAsync("set local enable_seqscan = off");
        var plan = await connection.ExecuteScalarAsync<string>(
            $"explain (format json) {AgentReader.Sql}",
            new { AgentIds = new Guid[1], OrgIds = new Guid?[1], Subjects = new string?[1] });

        using var document = JsonDocument.Parse(plan!);
        var whole = Nodes(document.RootElement[0].GetProperty("Plan")).Where(IsWhole)
            .Select(node => node.GetProperty(node.TryGetProperty("Relation Name", out _) ? "Relation Name" : "Index Name").GetString()).Distinct().Order().ToList();
        return whole is []
            ? new("plan", true, "one agent is found by indexes alone")
            : new("plan", false, $"no index leads to one agent's rows, so all rows are scanned in {string.Join(", ", whole)}");
    }

    private static IEnumerable<JsonElement> Nodes(JsonElement node) => node.TryGetProperty("Plans", out var children)
        ? children.EnumerateArray().SelectMany(Nodes).Prepend(node)
        : [node];

    // An index that is walked from end to end has no condition.
    private static bool IsWhole(JsonElement node) => node.GetProperty("Node Type").GetString() switch
    {
        "Seq Scan" => true,
        "Index Scan" or "Index Only Scan" or "Bitmap Index Scan" => !node.TryGetProperty("Index Cond", out _),
        _ => false,
    };

    private sealed record Relation(string Name, Column[] Columns)
    {
        public DatabaseFinding Compare(List<StoredColumn> stored)
        {
            if (stored is [])
            {
                return new(Name, false, $"calcom.{Name} is missing: {HowToMake}");
            }

            var problems = Columns.Select(column => stored.Find(one => one.Name == column.Name) switch
            {
                null => $"column {column.Name} is missing",
                { Type: var type } when !column.Types.Contains(type) => $"column {column.Name} is {type}, not {column.Types[0]}",
                _ => null,
            }).OfType<string>().ToList();
            var kind = KindOf(stored[0].Kind);
            if (kind is "materialized view")
            {
                problems.Insert(0, "a materialized view says what was, not what is");
            }

            if (stored[0].IsHidden)
            {
                problems.Insert(0, "row-level security hides its rows from the login");
            }

            return problems is [] ? new(Name, true, kind) : new(Name, false, string.Join("; ", problems));
        }

        private static string KindOf(string kind) => kind switch
        {
            "v" => "view",
            "m" => "materialized view",
            _ => "table",
        };
    }

    private sealed record Column(string Name, string[] Types, bool IsRead = true);

    private sealed record StoredColumn(string Relation, string Kind, string? Name, string? Type, bool IsReadable, bool IsHidden);
}

/// <summary>What was found in a database.</summary>
/// <param name="Database">The server and the database, without user and password.</param>
/// <param name="Checks">In the order of asking.</param>
/// <param name="Data">Null where it could not be counted.</param>
public sealed record DatabaseReport(string Database, IReadOnlyList<DatabaseFinding> Checks, DatabaseCounts? Data)
{
    /// <summary>Whether the service will do well on it.</summary>
    public bool Ok => Checks.All(finding => finding.Ok);
}

/// <summary>One thing that was looked at.</summary>
/// <param name="Name">What: a relation's name, or another word in snake_case.</param>
/// <param name="Ok">Whether it is as it has to be.</param>
/// <param name="Detail">For a person; where it is not, what to do. It holds neither data nor secrets.</param>
public sealed record DatabaseFinding(string Name, bool Ok, string Detail);

/// <summary>How often the data leaves the policy something to resolve.</summary>
/// <param name="Agents">Agents that are not deleted, as the next four are.</param>
/// <param name="TwoConnectedKeys">With two connected keys or more: the newest is used.</param>
/// <param name="KeyAndLink">With a connected key and a link: the key is used.</param>
/// <param name="DanglingLink">Linked to an account that is not there.</param>
/// <param name="ForeignLink">Linked to another organization's account.</param>
/// <param name="BlankName">Keys and accounts whose name is blank: it is answered as <c>Default</c>.</param>
/// <param name="LongText">Keys and accounts with a text longer than the service's own tables allow: it is cut after 2,048 characters.</param>
public sealed record DatabaseCounts(long Agents, long TwoConnectedKeys, long KeyAndLink, long DanglingLink, long ForeignLink, long BlankName, long LongText);
