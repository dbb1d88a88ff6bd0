using System.Diagnostics;
using System.Runtime.CompilerServices;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CalcomAccounts.Tests.Resilience;

/// <summary>Request batching: lookups share statements, but neither results nor failures.</summary>
public sealed class BatchingTests(DatabaseFixture setup) : IClassFixture<DatabaseFixture>
{
    private static readonly Guid s_org = Guid.NewGuid();
    private static readonly Caller s_caller = Caller.OfOrganization(s_org);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task LookupsDuringStatementsInFlight_AreBatchedIntoTheNextStatements(int maxInFlight)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = $"{maxInFlight}" });

        // The first statements take one lookup each; the rest needs three statements of 64 and one of 1.
        var agents = await AddAgentsAsync(maxInFlight + (3 * 64) + 1);
        List<Task<Agent?>> lookups;
        using var statements = new StatementCounter(setup.Database, "with ordinality");
        await using (await setup.LockAsync())
        {
            lookups = [.. agents.Select(agent => FindAsync(service, agent.Id))];
            await EventuallyAsync(async () => await setup.CountActiveAsync() == maxInFlight);
            await Task.Delay(100);
            Assert.Equal(maxInFlight, await setup.CountActiveAsync());
        }

        var found = await Task.WhenAll(lookups);

        Assert.Equal(maxInFlight + 4, statements.Count);
        Assert.Equal(agents.Select(agent => agent.Name), found.Select(agent => Assert.Single(agent!.Keys).Name));
    }

    [Fact]
    public async Task LookupsOfDifferentCallers_InOneBatch_GetOnlyTheirOwnAgents()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var otherOrg = Guid.NewGuid();
        var agent = (await AddAgentsAsync(1))[0];
        await setup.Database.AddMemberAsync(s_org, "member");
        var callers = new (Caller Caller, bool Sees)[]
        {
            (s_caller, true), (Caller.OfOrganization(otherOrg), false), (Caller.OfSubject("member"), true), (Caller.OfSubject("nobody"), false),
            (Caller.OfSubject("member").NarrowedTo(s_org), true), (Caller.OfSubject("member").NarrowedTo(otherOrg), false), (Caller.OfSubject("nul\0"), false),
        };
        List<Task<Agent?>> lookups;
        await using (await setup.LockAsync())
        {
            _ = FindAsync(service, agent.Id);
            lookups = [.. Enumerable.Range(0, 9).SelectMany(_ => callers).Select(caller => FindAsync(service, agent.Id, caller.Caller))];
        }

        var found = await Task.WhenAll(lookups);

        Assert.Equal(Enumerable.Range(0, 9).SelectMany(_ => callers).Select(caller => caller.Sees), found.Select(result => result is not null));
    }

    [Theory]
    [InlineData("1 / 0")]
    [InlineData("length(pg_sleep(30)::text)")]
    public async Task LookupThatFailsOrTimesOut_InABatch_FailsAlone(string failure)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(100);
        var poisoned = agents[30].Id;
        await ExecuteAsync($"""
            create function calcom.cost(agent uuid) returns int language plpgsql as $$
                begin if agent = '{poisoned}' then return {failure}; end if; return 1; end $$;
            alter table calcom.agents rename to agents_table;
            create view calcom.agents as select id, org_id, name, org_account_id, deleted_at from calcom.agents_table where calcom.cost(id) = 1;
            grant select on calcom.agents to calcom_reader
            """);
        try
        {
            await AssertFailsAloneAsync(service, agents, poisoned, "agents_table");
        }
        finally
        {
            await ExecuteAsync("drop view calcom.agents; alter table calcom.agents_table rename to agents; drop function calcom.cost");
        }
    }

    [Fact]
    public async Task AgentWithUnreadableRows_InABatch_FailsAlone()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(100);
        var poisoned = agents[30].Id;
        await ExecuteAsync($"""
            alter table calcom.agent_keys rename to agent_keys_table;
            create view calcom.agent_keys as
                select case when agent_id <> '{poisoned}' then id end as id, org_id, agent_id, account_name, has_api_key, api_base_url, status, created_at
                from calcom.agent_keys_table;
            grant select on calcom.agent_keys to calcom_reader
            """);
        try
        {
            await AssertFailsAloneAsync(service, agents, poisoned, "agents");
        }
        finally
        {
            await ExecuteAsync("drop view calcom.agent_keys; alter table calcom.agent_keys_table rename to agent_keys");
        }
    }

    // The stack trace of a shared exception would grow each time it is thrown, and so would the log.
    [Fact]
    public async Task FailedStatement_EachRequestGetsItsOwnException()
    {
        await using var service = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody");

        var errors = await Task.WhenAll(Enumerable.Range(0, 100).Select(_ => Record.ExceptionAsync(() => FindAsync(service, Guid.NewGuid())).AsTask()));

        Assert.All(errors, error => Assert.Contains("127.0.0.1:1", Assert.IsType<NpgsqlException>(error).Message, StringComparison.Ordinal));
        Assert.Equal(errors.Length, errors.Distinct().Count());
    }

    [Fact]
    public async Task CancelledLookup_EndsAtOnceAndOthersInTheBatchAreAnswered()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(4);
        using var clientDisconnected = new CancellationTokenSource();
        Task<Agent?> sent, sentToo, queued, queuedToo;
        await using (await setup.LockAsync())
        {
            (sent, sentToo) = await SendTogetherAsync(service, (agents[0].Id, clientDisconnected.Token), (agents[1].Id, default));
            (queued, queuedToo) = (FindAsync(service, agents[2].Id, cancellationToken: clientDisconnected.Token), FindAsync(service, agents[3].Id));

            var started = Stopwatch.GetTimestamp();
            await clientDisconnected.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => sent);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => queued);
            Assert.InRange(Stopwatch.GetElapsedTime(started).TotalMilliseconds, 0, 200);
            Assert.False(sentToo.IsCompleted || queuedToo.IsCompleted);
        }

        Assert.Equal(agents[1].Name, Assert.Single((await sentToo)!.Keys).Name);
        Assert.Equal(agents[3].Name, Assert.Single((await queuedToo)!.Keys).Name);
    }

    // A client that disconnects is no reason to isolate its agents or its organization.
    [Fact]
    public async Task CancelledLookups_AreNotQuarantined()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(8);
        foreach (var agent in agents.Take(4))
        {
            await using var locked = await setup.LockAsync();
            using var clientDisconnected = new CancellationTokenSource();
            var lookup = FindAsync(service, agent.Id, cancellationToken: clientDisconnected.Token);
            await EventuallyAsync(async () => await setup.CountActiveAsync() is 1);
            await clientDisconnected.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => lookup);
        }

        // The last cancelled statement may not have ended yet.
        await EventuallyAsync(async () => await setup.CountActiveAsync() is 0);
        List<Task<Agent?>> lookups;
        using var statements = new StatementCounter(setup.Database, "with ordinality");
        await using (await setup.LockAsync())
        {
            lookups = [FindAsync(service, agents[0].Id)];
            await EventuallyAsync(async () => await setup.CountActiveAsync() is 1);
            lookups.AddRange(agents.Select(agent => FindAsync(service, agent.Id)));
        }

        // Quarantined lookups would run one by one; these are batched into one statement, after the first.
        Assert.All(await Task.WhenAll(lookups), Assert.NotNull);
        Assert.Equal(2, statements.Count);
    }

    [Fact]
    public async Task Statement_AllItsLookupsCancelled_IsCancelled()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agent = (await AddAgentsAsync(1))[0];
        using var first = new CancellationTokenSource();
        using var second = new CancellationTokenSource();
        await using (await setup.LockAsync())
        {
            var (one, other) = await SendTogetherAsync(service, (agent.Id, first.Token), (agent.Id, second.Token));

            await first.CancelAsync();
            await Task.Delay(200);
            Assert.Equal(1, await setup.CountActiveAsync());
            await second.CancelAsync();

            // Before the statement timeout of 1.5 seconds would end it.
            await Eventually.HoldsAsync(async () => await setup.CountActiveAsync() is 0, TimeSpan.FromSeconds(1));
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.WhenAll(one, other));
        }
    }

    [Fact]
    public async Task CallerOverItsQueueShare_Gets429AndOthersAreServed()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1", ["CalcomAccounts:MaxQueuedLookups"] = "40" });
        var agent = (await AddAgentsAsync(1))[0];
        List<Task<Agent?>> accepted;
        await using (await setup.LockAsync())
        {
            accepted = [.. Enumerable.Range(0, 11).Select(_ => FindAsync(service, agent.Id))];

            var started = Stopwatch.GetTimestamp();
            var refused = await service.GetAccountAsync(agent.Id, Tokens.OfOrganization(s_org));
            Assert.Equal((429, "1", "no-store"), (refused.Status, refused.Header("Retry-After"), refused.Header("Cache-Control")));
            Assert.Equal("""{"success":false,"message":"Too many of your requests are waiting; try again in a second","code":"TOO_MANY_REQUESTS"}""", refused.Body);
            Assert.InRange(Stopwatch.GetElapsedTime(started).TotalMilliseconds, 0, 1000);
            Assert.DoesNotContain(accepted, lookup => lookup.IsCompleted);
            accepted.Add(FindAsync(service, agent.Id, Caller.OfSubject("somebody else")));
        }

        Assert.Null((await Task.WhenAll(accepted))[^1]);
        accepted.RemoveAt(accepted.Count - 1);
        Assert.All(await Task.WhenAll(accepted), Assert.NotNull);
        Assert.Equal(200, (await service.GetAccountAsync(agent.Id, Tokens.OfOrganization(s_org))).Status);
    }

    [Fact]
    public async Task CancelledLookups_FreeTheirPlacesInTheQueue()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1", ["CalcomAccounts:MaxQueuedLookups"] = "40" });
        var agent = (await AddAgentsAsync(1))[0];
        using var clientDisconnected = new CancellationTokenSource();
        List<Task<Agent?>> remaining;
        await using (await setup.LockAsync())
        {
            _ = FindAsync(service, agent.Id);
            var cancelled = Enumerable.Range(0, 10).Select(_ => FindAsync(service, agent.Id, cancellationToken: clientDisconnected.Token)).ToList();
            await Assert.ThrowsAsync<TooManyLookupsException>(() => FindAsync(service, agent.Id));
            await clientDisconnected.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.WhenAll(cancelled));

            remaining = [.. Enumerable.Range(0, 10).Select(_ => FindAsync(service, agent.Id))];
        }

        Assert.All(await Task.WhenAll(remaining), Assert.NotNull);
    }

    [Fact]
    public async Task LookupsOfOneRequest_StayInOneStatementInOrderOfArrival()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(300);
        using var statements = new StatementCounter(setup.Database, "with ordinality");
        List<Task<IReadOnlyList<Agent?>>> requests;
        int[] lengths = [1, 30, 34, 64, 100, 63, 2, 4, 2];
        await using (await setup.LockAsync())
        {
            var from = 0;
            requests = [.. lengths.Select(length => FindAsync(service, agents[from..(from += length)]))];
        }

        var found = await Task.WhenAll(requests);

        // The batches: 1 | 30 34 | 64 | 100 | 63 | 2 4 2
        Assert.Equal(6, statements.Count);
        Assert.Equal(lengths, found.Select(one => one.Count));
        Assert.Equal(agents.Take(300).Select(agent => agent.Name), found.SelectMany(one => one).Select(agent => Assert.Single(agent!.Keys).Name));
    }

    [Fact]
    public async Task QueueLimit_CountsLookupsAndAdmitsALongRequestWhenEmpty()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1", ["CalcomAccounts:MaxQueuedLookups"] = "40" });
        var agents = await AddAgentsAsync(20);
        Assert.All(await FindAsync(service, agents), Assert.NotNull);
        Task<IReadOnlyList<Agent?>> first, six, four;
        await using (await setup.LockAsync())
        {
            (first, six) = (FindAsync(service, agents), FindAsync(service, agents[..6]));
            await Assert.ThrowsAsync<TooManyLookupsException>(() => FindAsync(service, agents[..5]));
            four = FindAsync(service, agents[..4]);
            await Assert.ThrowsAsync<TooManyLookupsException>(() => FindAsync(service, agents[..1]));
        }

        Assert.Equal([20, 6, 4], (await Task.WhenAll(first, six, four)).Select(found => found.Count));
        Assert.All(await FindAsync(service, agents[..10]), Assert.NotNull);
    }

    [Fact]
    public async Task QueuedLookups_AreAnsweredInOrderOfArrival()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(200);
        var answered = new List<int>();
        List<Task> lookups;
        await using (await setup.LockAsync())
        {
            lookups = [.. agents.Select((agent, i) => RecordAsync(FindAsync(service, agent.Id), i))];
        }

        await Task.WhenAll(lookups);
        Assert.Equal(Enumerable.Range(0, agents.Count), answered);

        async Task RecordAsync(Task<Agent?> lookup, int i)
        {
            await lookup;
            lock (answered)
            {
                answered.Add(i);
            }
        }
    }

    [Fact]
    public async Task LookupWithoutCaller_IsRejectedBeforeTheDatabase()
    {
        var agent = (await AddAgentsAsync(1))[0];
        var nobody = (Caller)RuntimeHelpers.GetUninitializedObject(typeof(Caller));
        using var statements = new StatementCounter(setup.Database, "with ordinality");

        await Assert.ThrowsAsync<ArgumentException>(() => FindAsync(setup.Service, agent.Id, nobody));

        Assert.Equal(0, statements.Count);

        // The statement itself returns nothing either.
        await using var connection = new NpgsqlConnection(setup.Database.ServiceConnectionString);
        Assert.Empty(await connection.QueryAsync(AgentReader.Sql, AgentReader.Parameters.ForSql([agent.Id], [null], [null])));
    }

    [Theory]
    [InlineData("", 1)]
    [InlineData(";Max Auto Prepare=0", 0)]
    public async Task LookupStatement_IsPreparedUnlessDisabledInTheConnectionString(string settings, long prepared)
    {
        await using var service = await TestService.StartAsync($"{setup.Database.ServiceConnectionString};Maximum Pool Size=1{settings}");
        var agent = (await AddAgentsAsync(1))[0];
        for (var i = 0; i < 3; i++)
        {
            Assert.Equal(agent.Name, Assert.Single((await FindAsync(service, agent.Id))!.Keys).Name);
        }

        await using var connection = await service.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();
        Assert.Equal(prepared, await connection.ExecuteScalarAsync<long>(
            "select count(*) from pg_prepared_statements where statement like '%with ordinality%' and statement not like '%pg_prepared_statements%'"));
    }

    [Fact]
    public async Task SchemaChange_WithPreparedStatement_RequestsSucceed()
    {
        var agent = (await AddAgentsAsync(1))[0];
        foreach (var type in new[] { "varchar(80)", "text" })
        {
            Assert.Equal(200, (await setup.Service.GetAccountAsync(agent.Id, Tokens.OfOrganization(s_org))).Status);
            await ExecuteAsync($"alter table calcom.org_accounts alter column account_name type {type}; alter table calcom.agent_keys alter column account_name type {type}");
            Assert.Equal(200, (await setup.Service.GetAccountAsync(agent.Id, Tokens.OfOrganization(s_org))).Status);
        }
    }

    private Task<TestService> StartAsync(Dictionary<string, string?> settings) =>
        TestService.StartAsync(setup.Database.ServiceConnectionString, settings);

    private static async Task<Agent?> FindAsync(TestService service, Guid agentId, Caller? caller = null, CancellationToken cancellationToken = default) =>
        Assert.Single(await service.Services.GetRequiredService<IAgentReader>().FindAsync([agentId], caller ?? s_caller, cancellationToken));

    private static Task<IReadOnlyList<Agent?>> FindAsync(TestService service, List<(Guid Id, string Name)> agents) =>
        service.Services.GetRequiredService<IAgentReader>().FindAsync([.. agents.Select(agent => agent.Id)], s_caller, CancellationToken.None);

    /// <summary>Looks up all agents in one batch, and fails unless only the poisoned one fails.</summary>
    private async Task AssertFailsAloneAsync(TestService service, List<(Guid Id, string Name)> agents, Guid poisoned, string locked)
    {
        List<Task<Agent?>> lookups;
        await using (await setup.LockAsync(locked))
        {
            _ = FindAsync(service, agents[0].Id);
            lookups = [.. agents.Select(agent => FindAsync(service, agent.Id))];
        }

        foreach (var (lookup, agent) in lookups.Zip(agents))
        {
            if (agent.Id == poisoned)
            {
                await Assert.ThrowsAsync<DatabaseException>(() => lookup);
            }
            else
            {
                Assert.Equal(agent.Name, Assert.Single((await lookup)!.Keys).Name);
            }
        }
    }

    /// <summary>Sends two lookups in one statement, which waits for a lock: they are queued behind a lookup that is cancelled.</summary>
    private async Task<(Task<Agent?> One, Task<Agent?> Other)> SendTogetherAsync(
        TestService service, (Guid AgentId, CancellationToken Cancellation) one, (Guid AgentId, CancellationToken Cancellation) other)
    {
        using var firstCancelled = new CancellationTokenSource();
        _ = FindAsync(service, one.AgentId, cancellationToken: firstCancelled.Token);
        var together = (FindAsync(service, one.AgentId, cancellationToken: one.Cancellation), FindAsync(service, other.AgentId, cancellationToken: other.Cancellation));
        await EventuallyAsync(async () => await setup.CountActiveAsync() is 1);
        var firstStarted = await OldestActiveAsync();
        await firstCancelled.CancelAsync();
        await EventuallyAsync(async () => await setup.CountActiveAsync() is 1 && await OldestActiveAsync() > firstStarted);
        return together;
    }

    /// <summary>Adds agents with one key each, whose name is unique.</summary>
    private async Task<List<(Guid Id, string Name)>> AddAgentsAsync(int count)
    {
        var ids = await setup.Database.QueryAsync<Guid>(
            $"""
            with agent as (insert into calcom.agents (org_id) select '{s_org}' from generate_series(1, {count}) returning org_id, id)
            insert into calcom.agent_keys (org_id, agent_id, account_name, api_key) select org_id, id, 'key of ' || id, 'cal_secret' from agent returning agent_id
            """);
        return [.. ids.Select(id => (id, $"key of {id}"))];
    }

    private static Task EventuallyAsync(Func<Task<bool>> condition) => Eventually.HoldsAsync(condition, TimeSpan.FromSeconds(5));

    private async Task<DateTime> OldestActiveAsync() => (await setup.Database.QueryAsync<DateTime?>(
        $"select min(query_start) from pg_stat_activity where usename = '{TestDatabase.ServiceLogin}' and state = 'active'"))[0] ?? DateTime.MinValue;

    private Task ExecuteAsync(string sql) => setup.Database.ExecuteAsync(sql);
}
