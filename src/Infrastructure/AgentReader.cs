using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure;

internal sealed class AgentReader(NpgsqlDataSource dataSource) : IAgentReader
{
    // One row for each account of the agent, or one of nulls where it has none. Another organization's account is not
    // read, whatever the link says; a caller with neither organization nor subject would reach nothing.
    internal const string Sql = """
        select account.is_linked, account.id, account.account_name as name, account.has_api_key is true as has_api_key,
               account.api_base_url, account.status, account.created_at
        from calcom.agents agent
        left join lateral (
            select false as is_linked, id, account_name, has_api_key, api_base_url, status, created_at
            from calcom.agent_keys
            where agent_id = agent.id
            union all
            select true, id, account_name, has_api_key, api_base_url, status, created_at
            from calcom.org_accounts
            where org_id = agent.org_id and id = agent.org_account_id
        ) account on true
        where agent.id = @AgentId
          and agent.deleted_at is null
          and case when @Subject is null
              then agent.org_id = @OrgId
              else (@OrgId is null or agent.org_id = @OrgId)
                  and exists (
                      select from calcom.org_members member
                      where member.org_id = agent.org_id and member.subject = @Subject)
              end
        """;

    // Npgsql clears its pool of ended sessions when it meets the first, and hands out others until it is done with that.
    private const int MaxAttempts = 3;
    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(10);

    public async Task<Agent?> FindAsync(Guid agentId, Caller caller, CancellationToken cancellationToken)
    {
        var reading = new CancellationTokenSource();
        try
        {
            return await ReadAsync(agentId, caller, reading.Token).WaitAsync(cancellationToken);
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            // Has the server told to end the query. Npgsql blocks while it does so, for seconds where the server is frozen.
            _ = reading.CancelAsync();
            throw;
        }
    }

    private async Task<Agent?> ReadAsync(Guid agentId, Caller caller, CancellationToken cancellationToken)
    {
        // PostgreSQL's text can't hold a NUL, so no such subject is a member of anything.
        if (caller.Subject?.Contains('\0') is true)
        {
            return null;
        }

        var rows = await QueryAsync(new CommandDefinition(
            Sql, new { AgentId = agentId, caller.OrgId, caller.Subject }, cancellationToken: cancellationToken));
        return rows is []
            ? null
            : new Agent(
                [.. rows.Where(row => row.IsLinked is false).Select(row => row.ToAccount())],
                rows.Find(row => row.IsLinked is true)?.ToAccount());
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
            catch (NpgsqlException exception)
                when (attempt < MaxAttempts && exception is { IsTransient: true, InnerException: not TimeoutException })
            {
                // Such as a session that the server has ended while it was pooled. Reading again changes nothing, and what
                // has taken its time to fail is not tried again.
                await Task.Delay(s_pause * attempt, command.CancellationToken);
            }
        }
    }

    private sealed record Row(
        bool? IsLinked, Guid? Id, string? Name, bool HasApiKey, string? ApiBaseUrl, string? Status, DateTime? CreatedAt)
    {
        public CalcomAccount ToAccount() => new(Id!.Value, Name, HasApiKey, ApiBaseUrl, Status, CreatedAt);
    }
}
