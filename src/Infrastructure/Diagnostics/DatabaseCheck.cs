using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Diagnostics;

/// <summary>The command <c>check</c>: verifies what the service needs from a database (docs/database.md). It changes nothing.</summary>
public static partial class DatabaseCheck
{
    private const string HowToCreate = "run 'migrate' as the database's owner, or create views as in docs/database.md";
    private const string HowToAddOrganization = "run 'migrate', or add the org_id of the key's agent to the view, as in docs/database.md";

    private static readonly Version s_oldestCitus = new(13, 1);

    private static readonly string[] s_uuid = ["uuid"];
    private static readonly string[] s_text = ["text", "varchar", "bpchar", "citext"];
    private static readonly string[] s_boolean = ["bool"];
    private static readonly string[] s_instant = ["timestamptz", "timestamp"];

    // As in docs/database.md, without api_key, which a view need not have.
    private static readonly Relation[] s_relations =
    [
        new("agents", [new("id", s_uuid), new("org_id", s_uuid), new("name", s_text), new("org_account_id", s_uuid), new("deleted_at", s_instant)]),
        new("agent_keys", [new("id", s_uuid), new("org_id", s_uuid, HowToAddOrganization), new("agent_id", s_uuid), .. s_accountColumns]),
        new("org_accounts", [new("id", s_uuid), new("org_id", s_uuid), .. s_accountColumns]),
        new("org_members", [new("org_id", s_uuid), new("subject", s_text)]),
    ];

    private static Column[] s_accountColumns =>
        [new("account_name", s_text), new("has_api_key", s_boolean), new("api_base_url", s_text), new("status", s_text), new("created_at", s_instant)];

    // A domain counts as its base type, because its values are sent as such.
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

    // Includes every role that the login is a member of, as in LoginPrivileges.
    private const string WritableSql = """
        select distinct relation.relname
        from pg_class relation
        join pg_roles role on pg_has_role(role.oid, 'member')
        where relation.relnamespace = to_regnamespace('calcom') and relation.relname = any(@Relations)
          and (has_table_privilege(role.oid, relation.oid, 'insert, update, delete, truncate')
              or has_any_column_privilege(role.oid, relation.oid, 'insert, update'))
        order by 1
        """;

    private const string FirstColumnsSql = """
        select relname, pg_get_indexdef(oid, 1, true) from pg_class where relkind in ('i', 'I') and relname = any(@Indexes)
        """;

    // A view may return a row twice, for example because of a join.
    private const string IdsSql = """
        select relation || ': ' || count(*)
        from (
            select 'agents' as relation from calcom.agents group by id having id is null or count(*) > 1
            union all
            select 'agent_keys' from calcom.agent_keys group by id having id is null or count(*) > 1
            union all
            select 'org_accounts' from calcom.org_accounts group by id having id is null or count(*) > 1
        ) invalid
        group by relation
        order by relation
        """;

    // In a form that a distributed database can run, too.
    private const string DataSql = $"""
        with connected as (
            select org_id, agent_id, count(*) as keys
            from calcom.agent_keys
            where {AgentReader.IsConnectedSql}
            group by org_id, agent_id
        ), org_account as materialized (
            select id, org_id from calcom.org_accounts
        ), agent as (
            select coalesce(connected.keys, 0) as keys, agents.org_account_id is not null as is_linked,
                   account.id is not null as has_account, account.org_id = agents.org_id as is_own
            from calcom.agents
            left join connected on connected.org_id = agents.org_id and connected.agent_id = agents.id
            left join org_account account on account.id = agents.org_account_id
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

    /// <summary>Runs all checks, except for those that depend on one that has failed.</summary>
    /// <param name="connectionString">As the service's login.</param>
    /// <param name="isDistributed">Whether the service is told that the tables are distributed.</param>
    /// <param name="cancellationToken">Cancels the check.</param>
    /// <exception cref="StartupException"><paramref name="connectionString"/> is not valid.</exception>
    public static async Task<DatabaseReport> RunAsync(string connectionString, bool isDistributed, CancellationToken cancellationToken)
    {
        DefaultTypeMap.MatchNamesWithUnderscores = true;
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.CheckDefaults);
        var checks = new List<CheckResult>();
        DatabaseCounts? data = null;
        try
        {
            await using var dataSource = NpgsqlDataSource.Create(server);
            await using var connection = await dataSource.OpenConnectionAsync(cancellationToken);
            checks.Add(CheckServer(connection));
            if (await CheckRelationsAsync(connection, checks)
                && await CheckDistributionAsync(connection, isDistributed, checks)
                && await CheckIdsAsync(connection, checks)
                && await CheckAnswerAsync(connection, new(dataSource, isDistributed), isDistributed, checks, cancellationToken))
            {
                checks.Add(await CheckPlanAsync(connection, isDistributed));
                data = await connection.QuerySingleAsync<DatabaseCounts>(DataSql);
            }
        }
        catch (Exception exception) when (checks is [] && exception is not OperationCanceledException)
        {
            checks.Add(new("connection", false, DatabaseErrors.Describe(exception)));
        }
        catch (Exception exception) when (exception is not OperationCanceledException)
        {
            checks.Add(new("statement", false, DescribeStatementError(exception)));
        }

        return new(ConnectionStrings.Describe(server), checks, data);
    }

    private static CheckResult CheckServer(NpgsqlConnection connection) => ServerVersion.FindFault(connection.PostgreSqlVersion) is { } fault
        ? new("connection", false, fault)
        : new("connection", true, $"PostgreSQL {connection.PostgreSqlVersion}");

    /// <returns>Whether the service's statement can run at all.</returns>
    private static async Task<bool> CheckRelationsAsync(NpgsqlConnection connection, List<CheckResult> checks)
    {
        if (!await connection.ExecuteScalarAsync<bool>("select to_regnamespace('calcom') is not null"))
        {
            checks.Add(new("schema", false, $"there is no schema calcom: {HowToCreate}"));
            return false;
        }

        var names = new { Relations = s_relations.Select(relation => relation.Name).ToArray() };
        var stored = (await connection.QueryAsync<StoredColumn>(ColumnsSql, names)).ToLookup(column => column.Relation);
        var results = s_relations.Select(relation => relation.Compare([.. stored[relation.Name]])).ToList();
        checks.AddRange(results);

        if (!await connection.ExecuteScalarAsync<bool>("select has_schema_privilege(to_regnamespace('calcom'), 'usage') is true"))
        {
            checks.Add(new("login_reads", false, "the login has no usage privilege on schema calcom: grant it calcom_reader"));
            return false;
        }

        var unreadable = s_relations
            .SelectMany(relation => relation.Columns.Select(column => (Relation: relation.Name, Column: column.Name)))
            .Where(needed => stored[needed.Relation].Any(column => column.Name == needed.Column && !column.IsReadable))
            .Select(needed => $"{needed.Relation}.{needed.Column}")
            .ToList();
        checks.Add(unreadable is []
            ? new("login_reads", true, "the login can read all columns that requests need")
            : new("login_reads", false, $"the login can't read {string.Join(", ", unreadable)}: grant it calcom_reader"));

        checks.Add(await connection.ExecuteScalarAsync<bool>(LoginPrivileges.CanReadApiKeySql)
            ? new("login_reads_no_key", false, "the login can read api_key: use a login with the role calcom_reader and no other")
            : new("login_reads_no_key", true, "the login can't read api_key"));

        var writable = (await connection.QueryAsync<string>(WritableSql, names)).AsList();
        checks.Add(writable is []
            ? new("login_writes_nothing", true, "the login can't write these relations")
            : new("login_writes_nothing", false, $"the login can write {string.Join(", ", writable)}: use a login with the role calcom_reader and no other"));

        return results.TrueForAll(result => result.Ok) && unreadable is [];
    }

    // Views hide whether their tables are distributed, but the plan shows it.
    private static async Task<bool> CheckDistributionAsync(NpgsqlConnection connection, bool isDistributed, List<CheckResult> checks)
    {
        var plan = await connection.ExecuteScalarAsync<string>("explain (format json, costs off) select from calcom.agents");
        var hasCitus = plan!.Contains("\"Custom Plan Provider\": \"Citus", StringComparison.Ordinal);
        var version = await connection.ExecuteScalarAsync<string>("select extversion from pg_extension where extname = 'citus'");
        if (hasCitus && Version.TryParse(version?.Split('-')[0], out var citus) && citus < s_oldestCitus)
        {
            checks.Add(new("distribution", false, $"Citus {citus} loses the column grants that keep api_key from the login; it has to be {s_oldestCitus} or newer"));
            return false;
        }

        checks.Add((hasCitus, isDistributed) switch
        {
            (true, false) => new("distribution", false, "the tables are distributed by Citus: set CalcomAccounts:Distributed to true"),
            (true, true) => new("distribution", true, "the tables are distributed by Citus, as configured"),
            (false, true) => new("distribution", true, "the tables are on one server; CalcomAccounts:Distributed is set, which costs processor time"),
            (false, false) => new("distribution", true, "the tables are on one server"),
        });
        return checks[^1].Ok;
    }

    private static async Task<bool> CheckIdsAsync(NpgsqlConnection connection, List<CheckResult> checks)
    {
        var invalid = (await connection.QueryAsync<string>(IdsSql)).AsList();
        checks.Add(invalid is []
            ? new("ids", true, "all ids are unique and not null")
            : new("ids", false, $"null or duplicate ids: {string.Join(", ", invalid)}"));
        return invalid is [];
    }

    // With ids of rows that exist, so that values are read too.
    private static async Task<bool> CheckAnswerAsync(
        NpgsqlConnection connection, AgentReader reader, bool isDistributed, List<CheckResult> checks, CancellationToken cancellationToken)
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
            foreach (var organization in sample.GroupBy(lookup => isDistributed ? lookup.Caller.OrgId : null))
            {
                await reader.ReadAsync([.. organization.Distinct()], new(StatementKind.Agents, organization.Key), cancellationToken);
            }

            Lookup[] ofMember = [new(sample[0].AgentId, Caller.OfSubject("check"))];
            StatementKind[] kinds = isDistributed ? [StatementKind.Memberships, StatementKind.AgentOrganization] : [StatementKind.Agents];
            foreach (var kind in kinds)
            {
                await reader.ReadAsync(ofMember, new(kind, OrgId: null), cancellationToken);
            }
        }
        catch (Exception exception) when (exception is not OperationCanceledException)
        {
            checks.Add(new("answer", false, $"the service's statement fails: {DescribeStatementError(exception)}"));
            return false;
        }

        var milliseconds = Stopwatch.GetElapsedTime(started).TotalMilliseconds.ToString("0", CultureInfo.InvariantCulture);
        checks.Add(new("answer", true, $"the service's statement succeeds, in {milliseconds} ms the first time"));
        return true;
    }

    // Libraries quote values in their messages, so only the type of such an exception is reported.
    private static string DescribeStatementError(Exception exception) =>
        DatabaseErrors.Describe(exception is NpgsqlException or DatabaseException ? exception : DatabaseException.From(exception));

    // enable_seqscan=off makes the planner use an index, if there is any, even for a table that is still small.
    private static async Task<CheckResult> CheckPlanAsync(NpgsqlConnection connection, bool isDistributed)
    {
        await using var transaction = await connection.BeginTransactionAsync();
        await connection.ExecuteAsync("set local citus.propagate_set_commands = 'local'; set local enable_seqscan = off");
        (string Sql, AgentReader.Parameters Parameters)[] statements = isDistributed
            ?
            [
                (AgentReader.DistributedSql, AgentReader.Parameters.ForDistributedSql([Guid.Empty], [null], Guid.Empty)),
                (AgentReader.MembershipsSql, AgentReader.Parameters.ForMembershipsSql([""])),
                (AgentReader.AgentOrganizationSql, AgentReader.Parameters.ForAgentOrganizationSql([Guid.Empty], [""])),
            ]
            : [(AgentReader.Sql, AgentReader.Parameters.ForSql([Guid.Empty], [null], [null]))];
        var nodes = new List<JsonElement>();
        foreach (var (sql, parameters) in statements)
        {
            nodes.AddRange(Nodes(JsonDocument.Parse((await connection.ExecuteScalarAsync<string>($"explain (format json) {sql}", parameters))!).RootElement));
        }

        var firstColumns = (await connection.QueryAsync<(string Index, string Column)>(
            FirstColumnsSql, new { Indexes = nodes.Select(IndexName).OfType<string>().ToArray() })).ToLookup(index => index.Index, index => index.Column);
        var fullScans = nodes.Where(node => IsFullScan(node, firstColumns))
            .Select(node => node.GetProperty(node.TryGetProperty("Relation Name", out _) ? "Relation Name" : "Index Name").GetString()).Distinct().Order().ToList();
        return fullScans is []
            ? new("plan", true, "a lookup uses indexes only")
            : new("plan", false, $"an index is missing; a lookup scans all rows of {string.Join(", ", fullScans)}");
    }

    // Citus nests the plans of other servers below properties of its own.
    private static IEnumerable<JsonElement> Nodes(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.Array => element.EnumerateArray().SelectMany(Nodes),
        JsonValueKind.Object => element.EnumerateObject().SelectMany(property => Nodes(property.Value))
            .Concat(element.TryGetProperty("Node Type", out _) ? [element] : []),
        _ => [],
    };

    private static string? IndexName(JsonElement node) => node.TryGetProperty("Index Name", out var index) ? index.GetString() : null;

    // An index scan without a condition on the index's first column reads the whole index; with one on the organization alone, all rows of
    // an organization.
    private static bool IsFullScan(JsonElement node, ILookup<string, string> firstColumns) => node.GetProperty("Node Type").GetString() switch
    {
        "Seq Scan" => true,
        "Index Scan" or "Index Only Scan" or "Bitmap Index Scan" =>
            !node.TryGetProperty("Index Cond", out var condition)
            || OrganizationAlone().IsMatch(condition.GetString()!)
            || (firstColumns[IndexName(node)!].ToList() is not [] and var columns
                && !columns.Exists(column => Regex.IsMatch(condition.GetString()!, $@"(?<!\w){Regex.Escape(column)}(?!\w)"))),
        _ => false,
    };

    [GeneratedRegex(@"^\(\w+ = (agent\.org_id|'[0-9a-f-]+'::uuid)\)$")]
    private static partial Regex OrganizationAlone();

    private sealed record Relation(string Name, Column[] Columns)
    {
        public CheckResult Compare(List<StoredColumn> stored)
        {
            if (stored is [])
            {
                return new(Name, false, $"calcom.{Name} is missing: {HowToCreate}");
            }

            var problems = Columns.Select(column => stored.Find(candidate => candidate.Name == column.Name) switch
            {
                null => $"column {column.Name} is missing{(column.Hint is { } hint ? $": {hint}" : "")}",
                { Type: var type } when !column.Types.Contains(type) => $"column {column.Name} is {type}, not {column.Types[0]}",
                _ => null,
            }).OfType<string>().ToList();
            var kind = KindOf(stored[0].Kind);
            if (kind is "materialized view")
            {
                problems.Insert(0, "a materialized view returns outdated rows");
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

    private sealed record Column(string Name, string[] Types, string? Hint = null);

    private sealed record StoredColumn(string Relation, string Kind, string? Name, string? Type, bool IsReadable, bool IsHidden);
}
