using System.Data;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;
using NpgsqlTypes;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>Reads any number of agents, and checks their callers' access, by one statement each time.</summary>
/// <param name="dataSource">Where to read.</param>
/// <param name="isDistributed">Whether the tables are distributed over several servers by organization: docs/scaling.md.</param>
internal sealed class AgentReader(NpgsqlDataSource dataSource, bool isDistributed)
{
    // 'Connected' as in docs/account-resolution.md, in SQL: the same white space as .NET trims, no locale, and the status as cut below. The
    // unique index agent_keys_one_connected_per_agent has the same condition, so that PostgreSQL can use it.
    internal const string IsConnectedSql = $"""
        has_api_key and (left(status, 2048) collate "C" !~* '^{WhiteSpace}(inactive|not_connected){WhiteSpace}$') is not false
        """;

    /// <summary>
    /// The statement of lookups on a database that is not distributed; its parameters are the agents' ids, the callers' organizations and
    /// the callers' subjects.
    /// </summary>
    internal static readonly string Sql = BuildSql(
        lookups: "unnest($1, $2, $3) with ordinality lookup (agent_id, org_id, subject, position)",
        isOfOrganization: "(org_id = lookup.org_id or (lookup.org_id is null and lookup.subject is not null))",
        organization: "agent.org_id");

    /// <summary>
    /// The statement of lookups on a distributed database, where each relation has to be compared with one and the same organization; its
    /// parameters are the agents' ids, the callers' subjects and the organization.
    /// </summary>
    internal static readonly string DistributedSql = BuildSql(
        lookups: "unnest($1, $2) with ordinality lookup (agent_id, subject, position)",
        isOfOrganization: "org_id = $3",
        organization: "$3");

    /// <summary>A caller with more organizations than this is asked for by <see cref="AgentOrganizationSql"/>.</summary>
    internal const int MaxOrganizations = 8;

    /// <summary>
    /// The organizations of callers who name none, and one more than <see cref="MaxOrganizations"/> at most; its parameter is the callers'
    /// subjects. On a distributed database each server has all memberships.
    /// </summary>
    internal static readonly string MembershipsSql = $"""
        select lookup.subject, member.org_id
        from unnest($1) lookup (subject)
        join lateral (
            select org_id from calcom.org_members where subject = lookup.subject order by org_id limit {MaxOrganizations + 1}
        ) member on true
        """;

    /// <summary>
    /// The organizations of agents, for callers who name none and have many; its parameters are the agents' ids and the callers' subjects.
    /// It is the one statement that asks every server of a distributed database.
    /// </summary>
    internal const string AgentOrganizationSql = """
        select member.subject, agent.org_id, agent.id as agent_id
        from calcom.agents agent
        join calcom.org_members member on member.org_id = agent.org_id
        where agent.id = any($1) and coalesce(agent.deleted_at is null, false) and member.subject = any($2)
        """;

    /// <summary>
    /// A page of an organization's agents; its parameters are the organization, the caller's subject, the id to begin at, the id to leave
    /// out, and the number of agents. It serves distributed databases, too.
    /// </summary>
    internal static readonly string PageSql = $"""
        select agent.id as agent_id, left(agent.name, 2048) as agent_name, agent.org_account_id as linked_account_id, account.is_linked, account.id,
               account.account_name as name, account.has_api_key is true as has_api_key, account.api_base_url, account.status, account.created_at
        from (
            select distinct on (id) id, name, org_account_id -- a view may return an agent twice
            from calcom.agents
            where org_id = $1
              and id >= $3
              and id is distinct from $4
              and deleted_at is null
              and ($2 is null or exists (select from calcom.org_members member where member.org_id = $1 and member.subject = $2))
            order by id
            limit $5
        ) agent
        {AccountsSql("$1", keys: 1)}
        order by agent.id
        """;

    private const string WhiteSpace = @"[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*";

    // Npgsql reads the years 1 to 9999, and infinity.
    private const string CreatedAt = """
        case when created_at < timestamptz '0001-01-01 00:00:00+00' then '-infinity' when created_at >= timestamptz '10000-01-01 00:00:00+00' then 'infinity' else created_at end
        """;

    // The leading comment tells probes from lookups in pg_stat_activity.
    private static readonly string s_probeSql = $"-- probe\n{Sql}";
    private static readonly string s_distributedProbeSql = $"-- probe\n{DistributedSql}";

    private const int MaxKeys = 100;

    private static readonly TimeSpan s_retryDelay = TimeSpan.FromMilliseconds(10);

    // Null when the connection string names one host only.
    private readonly NpgsqlMultiHostDataSource? _multiHost = dataSource as NpgsqlMultiHostDataSource;

    // After a restart of a server the pool may hand out a second session that has ended before Npgsql has cleared them all. Of several
    // servers each may hand out one.
    private readonly int _maxAttempts = 2 + ConnectionStrings.Hosts(new(dataSource.ConnectionString)).Length;

    /// <summary>What was found for each of <paramref name="lookups"/>, in their order.</summary>
    /// <param name="lookups">At least one, without duplicates, all of <paramref name="key"/>.</param>
    /// <param name="key">What to read.</param>
    /// <param name="cancellationToken">Cancels the statement.</param>
    /// <param name="onConnected">Called when the pool has handed out a session, before the statement is sent.</param>
    /// <exception cref="DatabaseException">The database reported an error, or rows could not be read.</exception>
    /// <exception cref="NpgsqlException">The database could not be reached, or the connection was lost.</exception>
    public async Task<LookupResult[]> ReadAsync(
        IReadOnlyList<Lookup> lookups, StatementKey key, CancellationToken cancellationToken, Action? onConnected = null)
    {
        Guid[] agentIds = [.. lookups.Select(lookup => lookup.AgentId)];
        string?[] subjects = [.. lookups.Select(lookup => lookup.Caller.Subject)];
        switch (key)
        {
            case { Kind: StatementKind.Memberships }:
                var memberships = await QueryAsync<OrganizationRow>(MembershipsSql, Parameters.ForMembershipsSql(subjects), onConnected, cancellationToken);
                var ofSubject = memberships.ToLookup(row => row.Subject, row => row.OrgId);
                return [.. lookups.Select(lookup => new LookupResult(Agent: null, [.. ofSubject[lookup.Caller.Subject!].Order()]))];
            case { Kind: StatementKind.AgentOrganization }:
                var agents = await QueryAsync<OrganizationRow>(AgentOrganizationSql, Parameters.ForAgentOrganizationSql(agentIds, subjects), onConnected, cancellationToken);
                var ofAgent = agents.ToLookup(row => (row.Subject, row.AgentId), row => row.OrgId);
                return [.. lookups.Select(lookup => new LookupResult(Agent: null, [.. ofAgent[(lookup.Caller.Subject!, lookup.AgentId)].Order()]))];
            case { OrgId: { } orgId }:
                return await ReadAgentsAsync(DistributedSql, Parameters.ForDistributedSql(agentIds, subjects, orgId), lookups.Count, onConnected, cancellationToken);
            default:
                Guid?[] orgIds = [.. lookups.Select(lookup => lookup.Caller.OrgId)];
                return await ReadAgentsAsync(Sql, Parameters.ForSql(agentIds, orgIds, subjects), lookups.Count, onConnected, cancellationToken);
        }
    }

    /// <summary>A page of an organization's agents, as <see cref="IAgentReader.ListAsync"/> returns it.</summary>
    /// <param name="page">Which.</param>
    /// <param name="caller">With an organization.</param>
    /// <param name="cancellationToken">Cancels the statement.</param>
    /// <param name="onConnected">Called when the pool has handed out a session, before the statement is sent.</param>
    /// <exception cref="DatabaseException">The database reported an error, or rows could not be read.</exception>
    /// <exception cref="NpgsqlException">The database could not be reached, or the connection was lost.</exception>
    public async Task<IReadOnlyList<ListedAgent>> ReadPageAsync(
        Page page, Caller caller, CancellationToken cancellationToken, Action? onConnected = null)
    {
        var parameters = Parameters.ForPageSql(caller.OrgId!.Value, caller.Subject, page.After, page.Count);
        var rows = await QueryAsync<PageRow>(PageSql, parameters, onConnected, cancellationToken);
        return [.. rows.GroupBy(row => row.AgentId).Select(agent => new ListedAgent(agent.Key, agent.First().AgentName ?? "", ToAgent(agent)))];
    }

    /// <summary>Sends the same statement as a lookup, with an organization that does not exist.</summary>
    /// <exception cref="DatabaseException">The database reported an error.</exception>
    /// <exception cref="NpgsqlException">The database could not be reached, or the connection was lost.</exception>
    public Task ProbeAsync(CancellationToken cancellationToken)
    {
        // Without an organization no server but the one that is connected to is asked, so that another one which is away is not noticed.
        var parameters = isDistributed
            ? Parameters.ForDistributedSql([Guid.Empty], subjects: [null], orgId: null)
            : Parameters.ForSql([Guid.Empty], [Guid.Empty], subjects: [null]);
        return ReadAgentsAsync(isDistributed ? s_distributedProbeSql : s_probeSql, parameters, count: 1, onConnected: null, cancellationToken);
    }

    // Returns, for each lookup whose agent the caller may see, one row per account, or one row of nulls if the agent has no account.
    // - Tenancy (docs/adr/0001-tenancy-in-sql.md): the agent is of the caller's organization, or of one that the subject is a member of.
    //   Keys and a linked account are only read if they are of the agent's organization. A caller with neither organization nor subject
    //   gets nothing.
    // - Bounded rows (docs/adr/0005-bounded-rows.md): at most the best-ranked 100 keys of an agent are read, connected and disconnected
    //   ones each through an index of their own. Texts are cut. Of the keys only the first, which may be the effective account, has its
    //   name and URL.
    private static string BuildSql(string lookups, string isOfOrganization, string organization) => $"""
        select lookup.position, agent.org_account_id as linked_account_id, account.is_linked, account.id, account.account_name as name,
               account.has_api_key is true as has_api_key, account.api_base_url, account.status, account.created_at
        from {lookups}
        join lateral (
            select id, org_id, org_account_id
            from calcom.agents agent
            where id = lookup.agent_id
              and {isOfOrganization}
              and coalesce(deleted_at is null, false) -- an expression, so that the index of agents that are not deleted is left to pages
              and (lookup.subject is null or exists (
                  select from calcom.org_members member
                  where member.org_id = {organization} and member.subject = lookup.subject))
            order by org_id::text -- if two organizations have the id; an expression, so that no index is read in that order
            limit 1
        ) agent on true
        {AccountsSql(organization, MaxKeys)}
        """;

    // The accounts of 'agent', which are of the organization: the best-ranked keys, at most so many, and the linked account.
    private static string AccountsSql(string organization, int keys) => $"""
        left join lateral (
            (select false as is_linked, id, account_name, has_api_key, api_base_url, status, created_at
             from (
                 (select true as is_connected, id, has_api_key, left(status, 2048) as status, {CreatedAt} as created_at,
                         case when row_number() over newest_first = 1 then left(account_name, 2048) end as account_name,
                         case when row_number() over newest_first = 1 then left(api_base_url, 2048) end as api_base_url
                  from calcom.agent_keys
                  where org_id = {organization} and agent_id = agent.id and {IsConnectedSql}
                  window newest_first as (order by {CreatedAt} desc nulls last, id desc)
                  order by {CreatedAt} desc nulls last, id desc -- an expression, so that no index of that order is preferred to the one of connected keys
                  limit {keys})
                 union all
                 (select false, id, has_api_key, left(status, 2048), {CreatedAt}, null, null
                  from calcom.agent_keys
                  where org_id = {organization} and agent_id = agent.id and ({IsConnectedSql}) is not true
                  order by agent_keys.created_at desc nulls last, id desc
                  limit {keys})
             ) key
             order by is_connected desc, created_at desc nulls last, id desc
             limit {keys})
            union all
            (select true, id, left(account_name, 2048), has_api_key, left(api_base_url, 2048), left(status, 2048), {CreatedAt}
             from calcom.org_accounts
             where org_id = {organization} and id = agent.org_account_id
             limit 100)
        ) account on true
        """;

    private async Task<LookupResult[]> ReadAgentsAsync(
        string sql, Parameters parameters, int count, Action? onConnected, CancellationToken cancellationToken)
    {
        var rows = await QueryAsync<Row>(sql, parameters, onConnected, cancellationToken);
        var results = new LookupResult[count];
        foreach (var agent in rows.GroupBy(row => row.Position))
        {
            results[agent.Key - 1] = new(ToAgent(agent));
        }

        return results;
    }

    /// <exception cref="DatabaseException">The rows contradict each other.</exception>
    private static Agent ToAgent(IEnumerable<AccountRow> rows)
    {
        try
        {
            return new(
                [.. rows.Where(row => row.IsLinked is false).Select(row => row.ToAccount())],
                rows.First().LinkedAccountId,
                rows.Where(row => row.IsLinked is true).Select(row => row.ToAccount()).Distinct().SingleOrDefault());
        }
        catch (InvalidOperationException exception)
        {
            throw DatabaseException.From(exception);
        }
    }

    private async Task<List<T>> QueryAsync<T>(string sql, Parameters parameters, Action? onConnected, CancellationToken cancellationToken)
    {
        var command = new CommandDefinition(sql, parameters, cancellationToken: cancellationToken);
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await using var connection = await dataSource.OpenConnectionAsync(command.CancellationToken);
                onConnected?.Invoke();
                return await QueryAsync<T>(connection, command);
            }
            catch (NpgsqlException exception) when (attempt < _maxAttempts && IsRetryable(exception))
            {
                await Task.Delay(s_retryDelay * attempt, command.CancellationToken);
            }
            catch (NpgsqlException exception) when (attempt < _maxAttempts && _multiHost is not null && IsNoHostAvailable(exception))
            {
                // Otherwise Npgsql would try the hosts that were offline again only after Host Recheck Seconds.
                _multiHost.ClearDatabaseStates();
                await Task.Delay(s_retryDelay * attempt, command.CancellationToken);
            }
            catch (PostgresException exception)
            {
                throw DatabaseException.From(exception);
            }
        }
    }

    private static async Task<List<T>> QueryAsync<T>(NpgsqlConnection connection, CommandDefinition command)
    {
        try
        {
            return (await connection.QueryAsync<T>(command)).AsList();
        }
        catch (Exception exception) when (exception is not (NpgsqlException or OperationCanceledException) && connection.State is not ConnectionState.Open)
        {
            // A session whose first statement was cancelled while it was planned fails with its next one, and Npgsql closes it.
            throw new NpgsqlException("the session was lost", new IOException(exception.GetType().Name));
        }
        catch (Exception exception) when (exception is not (NpgsqlException or OperationCanceledException))
        {
            // Dapper's messages quote the value that could not be read.
            throw DatabaseException.From(exception);
        }
    }

    // Retried are sessions that the server or PgBouncer ended while they were pooled, statements that were prepared before the schema
    // changed (0A000), and lost connections. A timeout is only retried if there is another host. Any other error of the statement is not,
    // whatever its code, because a view may raise any.
    private bool IsRetryable(NpgsqlException exception) => exception is PostgresException error
        ? DatabaseErrors.EndsSession(error) ? error.IsTransient || error.SqlState is PostgresErrorCodes.ProtocolViolation
            : error.SqlState is PostgresErrorCodes.FeatureNotSupported
        : exception.IsTransient && (_multiHost is not null || exception.InnerException is not TimeoutException);

    // Npgsql found no host to connect to; the hosts that it believes to be offline were not tried.
    private static bool IsNoHostAvailable(NpgsqlException exception) =>
        exception is not PostgresException && exception.InnerException is null or AggregateException;

    /// <summary>A statement's parameters, without names: Npgsql parses a statement that has named ones each time that it is sent.</summary>
    internal sealed class Parameters : SqlMapper.IDynamicParameters
    {
        private readonly Func<NpgsqlParameter[]> _create;

        // A parameter belongs to one command, and an attempt has a command of its own.
        private Parameters(Func<NpgsqlParameter[]> create) => _create = create;

        public static Parameters ForSql(Guid[] agentIds, Guid?[] orgIds, string?[] subjects) => new(() => [Of(agentIds), Of(orgIds), Of(subjects)]);

        public static Parameters ForDistributedSql(Guid[] agentIds, string?[] subjects, Guid? orgId) => new(() =>
        [
            Of(agentIds), Of(subjects), OfNullable(NpgsqlDbType.Uuid, orgId),
        ]);

        public static Parameters ForMembershipsSql(string?[] subjects) => new(() => [Of(subjects)]);

        public static Parameters ForAgentOrganizationSql(Guid[] agentIds, string?[] subjects) => new(() => [Of(agentIds), Of(subjects)]);

        public static Parameters ForPageSql(Guid orgId, string? subject, Guid? after, int count) => new(() =>
        [
            Of(orgId),
            OfNullable(NpgsqlDbType.Text, subject),
            Of(after ?? Guid.Empty),
            OfNullable(NpgsqlDbType.Uuid, after),
            Of((long)count),
        ]);

        public void AddParameters(IDbCommand command, SqlMapper.Identity identity) =>
            Array.ForEach(_create(), parameter => command.Parameters.Add(parameter));

        private static NpgsqlParameter<T> Of<T>(T value) => new() { TypedValue = value };

        private static NpgsqlParameter OfNullable(NpgsqlDbType type, object? value) => new() { NpgsqlDbType = type, Value = value ?? DBNull.Value };
    }

    // AgentId is of AgentOrganizationSql alone.
    private sealed record OrganizationRow
    {
        public required string Subject { get; init; }

        public Guid OrgId { get; init; }

        public Guid AgentId { get; init; }
    }

    private abstract record AccountRow(
        Guid? LinkedAccountId, bool? IsLinked, Guid? Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
    {
        public CalcomAccount ToAccount() => new(Id!.Value, Name, HasApiKey, ApiBaseUrl, Status, CreatedAt);
    }

    private sealed record Row(
        long Position, Guid? LinkedAccountId, bool? IsLinked, Guid? Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
        : AccountRow(LinkedAccountId, IsLinked, Id, Name, HasApiKey, ApiBaseUrl, Status, CreatedAt);

    private sealed record PageRow(
        Guid AgentId, string? AgentName, Guid? LinkedAccountId, bool? IsLinked, Guid? Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
        : AccountRow(LinkedAccountId, IsLinked, Id, Name, HasApiKey, ApiBaseUrl, Status, CreatedAt);
}
