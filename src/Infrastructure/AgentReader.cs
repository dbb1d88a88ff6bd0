using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure;

/// <summary>An agent to look up, and for whom.</summary>
internal readonly record struct Lookup(Guid AgentId, Caller Caller);

/// <summary>Reads any number of agents in one statement.</summary>
internal sealed class AgentReader(NpgsqlDataSource dataSource)
{
    // For each lookup that reaches its agent one row an account, or one of nulls where it has none. It is of one organization: the
    // caller's, or a member's agent's own. Another's account is not read, whatever the link says; a caller with neither organization
    // nor subject would reach nothing.
    internal const string Sql = """
        select lookup.position, agent.org_account_id as linked_account_id, account.is_linked, account.id, account.account_name as name,
               account.has_api_key is true as has_api_key, account.api_base_url, account.status,
               case -- .NET holds the years 1 to 9999, and infinity
                   when account.created_at < timestamptz '0001-01-01 00:00:00+00' then '-infinity'
                   when account.created_at >= timestamptz '10000-01-01 00:00:00+00' then 'infinity'
                   else account.created_at
               end as created_at
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
            offset 0 -- keeps a small table from being scanned and hashed whole for each statement
        ) agent on true
        left join lateral (
            select false as is_linked, id, account_name, has_api_key, api_base_url, status, created_at
            from calcom.agent_keys
            where agent_id = agent.id
            union all
            select true, id, account_name, has_api_key, api_base_url, status, created_at
            from calcom.org_accounts
            where org_id = agent.org_id and id = agent.org_account_id
        ) account on true
        """;

    // Npgsql clears its pool of ended sessions when it meets the first, and hands out others until it is done with that.
    private const int MaxAttempts = 3;
    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(10);

    // Null where there is one server.
    private readonly NpgsqlMultiHostDataSource? _servers = dataSource as NpgsqlMultiHostDataSource;

    /// <summary>The agents in the order of <paramref name="lookups"/>; null for one that is out of its caller's reach.</summary>
    /// <exception cref="NpgsqlException">The database could not be asked, or refused the statement.</exception>
    public async Task<Agent?[]> ReadAsync(IReadOnlyList<Lookup> lookups, CancellationToken cancellationToken)
    {
        var rows = await QueryAsync(new CommandDefinition(
            Sql,
            new
            {
                AgentIds = lookups.Select(lookup => lookup.AgentId).ToArray(),
                OrgIds = lookups.Select(lookup => lookup.Caller.OrgId).ToArray(),
                Subjects = lookups.Select(lookup => lookup.Caller.Subject).ToArray(),
            },
            cancellationToken: cancellationToken));

        var agents = new Agent?[lookups.Count];
        foreach (var agent in rows.GroupBy(row => row.Position))
        {
            agents[agent.Key - 1] = new(
                [.. agent.Where(row => row.IsLinked is false).Select(row => row.ToAccount())],
                agent.First().LinkedAccountId,
                agent.Where(row => row.IsLinked is true).Select(row => row.ToAccount()).Distinct().SingleOrDefault());
        }

        return agents;
    }

    private async Task<List<Row>> QueryAsync(CommandDefinition command)
    {
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await using var connection = await dataSource.OpenConnectionAsync(command.CancellationToken);
                return (await connection.QueryAsync<Row>(command)).AsList();
            }
            catch (NpgsqlException exception) when (attempt < MaxAttempts && MayPass(exception))
            {
                await Task.Delay(s_pause * attempt, command.CancellationToken);
            }
            catch (NpgsqlException exception) when (attempt < MaxAttempts && _servers is not null && IsOfNoServer(exception))
            {
                // Those that have been away would be asked again only after Host Recheck Seconds.
                _servers.ClearDatabaseStates();
                await Task.Delay(s_pause * attempt, command.CancellationToken);
            }
        }
    }

    // A session that the server has ended while it was pooled (by PgBouncer: 08P01), or a statement prepared before the schema changed
    // (0A000). Reading again changes nothing. What has taken its time to fail is not tried again, unless there is another server to try it on.
    private bool MayPass(NpgsqlException exception) =>
        (exception.IsTransient && (_servers is not null || exception.InnerException is not TimeoutException))
        || exception.SqlState is PostgresErrorCodes.ProtocolViolation or PostgresErrorCodes.FeatureNotSupported;

    // Of several servers, none that was not known to be away could be connected to.
    private static bool IsOfNoServer(NpgsqlException exception) =>
        exception is not PostgresException && exception.InnerException is null or AggregateException;

    private sealed record Row(
        long Position, Guid? LinkedAccountId, bool? IsLinked, Guid? Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
    {
        public CalcomAccount ToAccount() => new(Id!.Value, Name, HasApiKey, ApiBaseUrl, Status, CreatedAt);
    }
}
