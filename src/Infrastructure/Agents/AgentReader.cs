using System.Data;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>Reads any number of agents, and checks their callers' access, in one statement.</summary>
internal sealed class AgentReader(NpgsqlDataSource dataSource)
{
    // 'Connected' as in docs/account-resolution.md, in SQL: the same white space as .NET trims, no locale, and the status as cut below. The
    // unique index agent_keys_one_connected_per_agent has the same condition, so that PostgreSQL can use it.
    internal const string IsConnectedSql = $"""
        has_api_key and (left(status, 2048) collate "C" !~* '^{WhiteSpace}(inactive|not_connected){WhiteSpace}$') is not false
        """;

    // Returns, for each lookup whose agent the caller may see, one row per account, or one row of nulls if the agent has no account.
    // - Tenancy (docs/adr/0001-tenancy-in-sql.md): the agent is of the caller's organization, or of one that the subject is a member of.
    //   A linked account is only read if it is of the agent's organization. A caller with neither organization nor subject gets nothing.
    // - Bounded rows (docs/adr/0005-bounded-rows.md): at most the best-ranked 100 keys of an agent are read, connected and disconnected
    //   ones each through an index of their own. Texts are cut. Of the keys only the first, which may be the effective account, has its
    //   name and URL.
    internal const string Sql = $"""
        select lookup.position, agent.org_account_id as linked_account_id, account.is_linked, account.id, account.account_name as name,
               account.has_api_key is true as has_api_key, account.api_base_url, account.status, account.created_at
        from unnest($1, $2, $3) with ordinality lookup (agent_id, org_id, subject, position)
        join lateral (
            select id, org_id, org_account_id
            from calcom.agents
            where id = lookup.agent_id
              and org_id = coalesce(
                  lookup.org_id,
                  (select org_id from calcom.agents where id = lookup.agent_id and lookup.subject is not null limit 1))
              and deleted_at is null
              and (lookup.subject is null or exists (
                  select from calcom.org_members member
                  where member.org_id = agents.org_id and member.subject = lookup.subject))
            limit 1
        ) agent on true
        left join lateral (
            (select false as is_linked, id, account_name, has_api_key, api_base_url, status, created_at
             from (
                 (select true as is_connected, id, has_api_key, left(status, 2048) as status, {CreatedAt} as created_at,
                         case when row_number() over newest_first = 1 then left(account_name, 2048) end as account_name,
                         case when row_number() over newest_first = 1 then left(api_base_url, 2048) end as api_base_url
                  from calcom.agent_keys
                  where agent_id = agent.id and {IsConnectedSql}
                  window newest_first as (order by {CreatedAt} desc nulls last, id desc)
                  order by {CreatedAt} desc nulls last, id desc -- an expression, so that no index of that order is preferred to the one of connected keys
                  limit 100)
                 union all
                 (select false, id, has_api_key, left(status, 2048), {CreatedAt}, null, null
                  from calcom.agent_keys
                  where agent_id = agent.id and ({IsConnectedSql}) is not true
                  order by agent_keys.created_at desc nulls last, id desc
                  limit 100)
             ) key
             order by is_connected desc, created_at desc nulls last, id desc
             limit 100)
            union all
            (select true, id, left(account_name, 2048), has_api_key, left(api_base_url, 2048), left(status, 2048), {CreatedAt}
             from calcom.org_accounts
             where org_id = agent.org_id and id = agent.org_account_id
             limit 100)
        ) account on true
        """;

    // The leading comment tells probes from lookups in pg_stat_activity.
    internal const string ProbeSql = $"-- probe\n{Sql}";

    private const string WhiteSpace = @"[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*";

    // Npgsql reads the years 1 to 9999, and infinity.
    private const string CreatedAt = """
        case when created_at < timestamptz '0001-01-01 00:00:00+00' then '-infinity' when created_at >= timestamptz '10000-01-01 00:00:00+00' then 'infinity' else created_at end
        """;

    private static readonly TimeSpan s_retryDelay = TimeSpan.FromMilliseconds(10);

    // Null when the connection string names one host only.
    private readonly NpgsqlMultiHostDataSource? _multiHost = dataSource as NpgsqlMultiHostDataSource;

    // After a restart of a server the pool may hand out a second session that has ended before Npgsql has cleared them all. Of several
    // servers each may hand out one.
    private readonly int _maxAttempts = 2 + ConnectionStrings.Hosts(new(dataSource.ConnectionString)).Length;

    /// <summary>The agents in the order of <paramref name="lookups"/>; null for one that its caller can't see.</summary>
    /// <param name="lookups">At least one, without duplicates.</param>
    /// <param name="cancellationToken">Cancels the statement.</param>
    /// <param name="sql"><see cref="Sql"/> or <see cref="ProbeSql"/>.</param>
    /// <param name="onConnected">Called when the pool has handed out a session, before the statement is sent.</param>
    /// <exception cref="DatabaseException">The database reported an error, or rows could not be read.</exception>
    /// <exception cref="NpgsqlException">The database could not be reached, or the connection was lost.</exception>
    public async Task<Agent?[]> ReadAsync(
        IReadOnlyList<Lookup> lookups, CancellationToken cancellationToken, string sql = Sql, Action? onConnected = null)
    {
        var command = new CommandDefinition(
            sql,
            new Parameters(
                [.. lookups.Select(lookup => lookup.AgentId)],
                [.. lookups.Select(lookup => lookup.Caller.OrgId)],
                [.. lookups.Select(lookup => lookup.Caller.Subject)]),
            cancellationToken: cancellationToken);
        var rows = await QueryAsync(command, onConnected);
        try
        {
            return ToAgents(rows, lookups.Count);
        }
        catch (InvalidOperationException exception)
        {
            throw DatabaseException.From(exception);
        }
    }

    private static Agent?[] ToAgents(List<Row> rows, int count)
    {
        var agents = new Agent?[count];
        foreach (var agent in rows.GroupBy(row => row.Position))
        {
            agents[agent.Key - 1] = new(
                [.. agent.Where(row => row.IsLinked is false).Select(row => row.ToAccount())],
                agent.First().LinkedAccountId,
                agent.Where(row => row.IsLinked is true).Select(row => row.ToAccount()).Distinct().SingleOrDefault());
        }

        return agents;
    }

    private async Task<List<Row>> QueryAsync(CommandDefinition command, Action? onConnected)
    {
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await using var connection = await dataSource.OpenConnectionAsync(command.CancellationToken);
                onConnected?.Invoke();
                return await QueryAsync(connection, command);
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

    private static async Task<List<Row>> QueryAsync(NpgsqlConnection connection, CommandDefinition command)
    {
        try
        {
            return (await connection.QueryAsync<Row>(command)).AsList();
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

    /// <summary>The statement's parameters, without names: Npgsql parses a statement that has named ones each time that it is sent.</summary>
    internal sealed class Parameters(Guid[] agentIds, Guid?[] orgIds, string?[] subjects) : SqlMapper.IDynamicParameters
    {
        public void AddParameters(IDbCommand command, SqlMapper.Identity identity)
        {
            command.Parameters.Add(new NpgsqlParameter<Guid[]> { TypedValue = agentIds });
            command.Parameters.Add(new NpgsqlParameter<Guid?[]> { TypedValue = orgIds });
            command.Parameters.Add(new NpgsqlParameter<string?[]> { TypedValue = subjects });
        }
    }

    private sealed record Row(
        long Position, Guid? LinkedAccountId, bool? IsLinked, Guid? Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
    {
        public CalcomAccount ToAccount() => new(Id!.Value, Name, HasApiKey, ApiBaseUrl, Status, CreatedAt);
    }
}
