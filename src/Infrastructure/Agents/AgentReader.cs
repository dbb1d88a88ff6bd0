using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Agents;

/// <summary>An agent to look up, and for whom.</summary>
internal readonly record struct Lookup(Guid AgentId, Caller Caller);

/// <summary>Reads any number of agents in one statement.</summary>
internal sealed class AgentReader(NpgsqlDataSource dataSource)
{
    // The policy's 'connected' for ranking keys, on the text that is returned, with .NET's white space and without any locale. The
    // unique index agent_keys_one_connected_per_agent has the same condition, and so serves it.
    internal const string IsConnectedSql = $"""
        has_api_key and (left(status, 2048) collate "C" !~* '^{WhiteSpace}(inactive|not_connected){WhiteSpace}$') is not false
        """;

    // For each lookup that reaches its agent one row an account, or one of nulls where it has none. It is of one organization: the
    // caller's, or a member's agent's own. Another's account is not read, whatever the link says; a caller with neither organization
    // nor subject would reach nothing. However many keys an agent has, the best-ranked 100 are read, each branch by an index of its own;
    // and only the best of all, which may be the effective account, with its name and URL. Texts are cut.
    internal const string Sql = $"""
        select lookup.position, agent.org_account_id as linked_account_id, account.is_linked, account.id, account.account_name as name,
               account.has_api_key is true as has_api_key, account.api_base_url, account.status, account.created_at
        from unnest(@AgentIds, @OrgIds, @Subjects) with ordinality lookup (agent_id, org_id, subject, position)
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
                  order by {CreatedAt} desc nulls last, id desc -- by the expression, which no index has: the one of connected keys is better
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

    // The same, told apart in the server's statistics.
    internal const string ProbeSql = $"-- probe\n{Sql}";

    private const string WhiteSpace = @"[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*";

    // .NET holds the years 1 to 9999, and infinity.
    private const string CreatedAt = """
        case when created_at < timestamptz '0001-01-01 00:00:00+00' then '-infinity' when created_at >= timestamptz '10000-01-01 00:00:00+00' then 'infinity' else created_at end
        """;

    // Npgsql clears its pool of ended sessions when it meets the first, and hands out others until it is done with that.
    private const int MaxAttempts = 3;
    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(10);

    // Null where there is one server.
    private readonly NpgsqlMultiHostDataSource? _servers = dataSource as NpgsqlMultiHostDataSource;

    /// <summary>The agents in the order of <paramref name="lookups"/>; null for one that is out of its caller's reach.</summary>
    /// <param name="lookups">At least one, each there once.</param>
    /// <param name="cancellationToken">Ends the statement.</param>
    /// <param name="sql"><see cref="Sql"/> or <see cref="ProbeSql"/>.</param>
    /// <param name="whenConnected">Called when there is a session, before the statement is sent on it.</param>
    /// <exception cref="DatabaseException">The database refused the statement or the login, or rows could not be read.</exception>
    /// <exception cref="NpgsqlException">The database could not be asked.</exception>
    public async Task<Agent?[]> ReadAsync(
        IReadOnlyList<Lookup> lookups, CancellationToken cancellationToken, string sql = Sql, Action? whenConnected = null)
    {
        var command = new CommandDefinition(
            sql,
            new
            {
                AgentIds = lookups.Select(lookup => lookup.AgentId).ToArray(),
                OrgIds = lookups.Select(lookup => lookup.Caller.OrgId).ToArray(),
                Subjects = lookups.Select(lookup => lookup.Caller.Subject).ToArray(),
            },
            cancellationToken: cancellationToken);
        var rows = await QueryAsync(command, whenConnected);
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

    private async Task<List<Row>> QueryAsync(CommandDefinition command, Action? whenConnected)
    {
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await using var connection = await dataSource.OpenConnectionAsync(command.CancellationToken);
                whenConnected?.Invoke();
                return await QueryAsync(connection, command);
            }
            catch (NpgsqlException exception) when (attempt < MaxAttempts && IsRetryable(exception))
            {
                await Task.Delay(s_pause * attempt, command.CancellationToken);
            }
            catch (NpgsqlException exception) when (attempt < MaxAttempts && _servers is not null && IsWithoutServer(exception))
            {
                // Those that have been away would be asked again only after Host Recheck Seconds.
                _servers.ClearDatabaseStates();
                await Task.Delay(s_pause * attempt, command.CancellationToken);
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
            // Dapper's messages quote the value that it could not read.
            throw DatabaseException.From(exception);
        }
    }

    // A session that the server or PgBouncer has ended while it was pooled, or a statement prepared before the schema changed (0A000).
    // Reading again changes nothing. What has taken its time to fail is not tried again, unless there is another server to try it on; nor
    // is what the server says of the statement, whatever code a view raises it with.
    private bool IsRetryable(NpgsqlException exception) => exception is PostgresException error
        ? DatabaseException.EndsSession(error) ? error.IsTransient || error.SqlState is PostgresErrorCodes.ProtocolViolation
            : error.SqlState is PostgresErrorCodes.FeatureNotSupported
        : exception.IsTransient && (_servers is not null || exception.InnerException is not TimeoutException);

    // Of several servers, none that was not known to be away could be connected to.
    private static bool IsWithoutServer(NpgsqlException exception) =>
        exception is not PostgresException && exception.InnerException is null or AggregateException;

    private sealed record Row(
        long Position, Guid? LinkedAccountId, bool? IsLinked, Guid? Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
    {
        public CalcomAccount ToAccount() => new(Id!.Value, Name, HasApiKey, ApiBaseUrl, Status, CreatedAt);
    }
}
