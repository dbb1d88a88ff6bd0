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

/// <summary>Lookups that share round trips, on a real server that nobody else uses: what they share, and what they never do.</summary>
public sealed class BatchingTests(DatabaseFixture setup) : IClassFixture<DatabaseFixture>
{
    private static readonly Guid s_org = Guid.NewGuid();
    private static readonly Caller s_caller = Caller.OfOrganization(s_org);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task WhatArrivesWhileAllStatementsAreInFlightGoesWithTheNext(int maxInFlight)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = $"{maxInFlight}" });

        // The first go alone, one with each statement; then three times 64, and one.
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
    public async Task LookupsOfDifferentCallersShareAStatementAndNothingElse()
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
    public async Task ALookupThatFailsOrTakesForEverFailsAlone(string poison)
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(100);
        var poisoned = agents[30].Id;
        await ExecuteAsync($"""
            create function calcom.cost(agent uuid) returns int language plpgsql as $$
                begin if agent = '{poisoned}' then return {poison}; end if; return 1; end $$;
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
    public async Task AnAgentWhoseRowsCanNotBeReadFailsAlone()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(100);
        var poisoned = agents[30].Id;
        await ExecuteAsync($"""
            alter table calcom.agent_keys rename to agent_keys_table;
            create view calcom.agent_keys as
                select case when agent_id <> '{poisoned}' then id end as id, agent_id, account_name, has_api_key, api_base_url, status, created_at
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

    // One that all of them throw has a stack trace that grows with each, and so have their lines of the log.
    [Fact]
    public async Task WhenAStatementFailsEachOfItsRequestsHasAnErrorOfItsOwn()
    {
        await using var service = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody");

        var errors = await Task.WhenAll(Enumerable.Range(0, 100).Select(_ => Record.ExceptionAsync(() => FindAsync(service, Guid.NewGuid()))));

        Assert.All(errors, error => Assert.Contains("127.0.0.1:1", Assert.IsType<NpgsqlException>(error).Message, StringComparison.Ordinal));
        Assert.Equal(errors.Length, errors.Distinct().Count());
    }

    [Fact]
    public async Task WhoGivesUpIsFreedAtOnce_AndItsNeighboursAreAnswered()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(4);
        using var hangsUp = new CancellationTokenSource();
        Task<Agent?> sent, sentToo, queued, queuedToo;
        await using (await setup.LockAsync())
        {
            (sent, sentToo) = await SendTogetherAsync(service, (agents[0].Id, hangsUp.Token), (agents[1].Id, default));
            (queued, queuedToo) = (FindAsync(service, agents[2].Id, cancellationToken: hangsUp.Token), FindAsync(service, agents[3].Id));

            var started = Stopwatch.GetTimestamp();
            await hangsUp.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => sent);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => queued);
            Assert.InRange(Stopwatch.GetElapsedTime(started).TotalMilliseconds, 0, 200);
            Assert.False(sentToo.IsCompleted || queuedToo.IsCompleted);
        }

        Assert.Equal(agents[1].Name, Assert.Single((await sentToo)!.Keys).Name);
        Assert.Equal(agents[3].Name, Assert.Single((await queuedToo)!.Keys).Name);
    }

    // A client that hangs up is no reason to read its agents, or all of its organization's, apart.
    [Fact]
    public async Task LookupsThatWereAbandoned_AreNoSuspects()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1" });
        var agents = await AddAgentsAsync(8);
        foreach (var agent in agents.Take(4))
        {
            await using var locked = await setup.LockAsync();
            using var hangsUp = new CancellationTokenSource();
            var lookup = FindAsync(service, agent.Id, cancellationToken: hangsUp.Token);
            await EventuallyAsync(async () => await setup.CountActiveAsync() is 1);
            await hangsUp.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => lookup);
        }

        // Apart there is one slot beside the one that is shared: together they go with one statement, behind the first.
        List<Task<Agent?>> lookups;
        using var statements = new StatementCounter(setup.Database, "with ordinality");
        await using (await setup.LockAsync())
        {
            lookups = [FindAsync(service, agents[0].Id)];
            await EventuallyAsync(async () => await setup.CountActiveAsync() is 1);
            lookups.AddRange(agents.Select(agent => FindAsync(service, agent.Id)));
        }

        Assert.All(await Task.WhenAll(lookups), Assert.NotNull);
        Assert.Equal(2, statements.Count);
    }

    [Fact]
    public async Task AStatementIsCancelledOnceNobodyWaitsForItAnyMore()
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
            await EventuallyAsync(async () => await setup.CountActiveAsync() is 0);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.WhenAll(one, other));
        }
    }

    [Fact]
    public async Task CallerWithAFullShareOfTheQueue_Gets429WithRetryAfter_AndOthersAreServed()
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
    public async Task WhoGivesUpLeavesRoomInTheQueue()
    {
        await using var service = await StartAsync(new() { ["CalcomAccounts:MaxConcurrentStatements"] = "1", ["CalcomAccounts:MaxQueuedLookups"] = "40" });
        var agent = (await AddAgentsAsync(1))[0];
        using var hangsUp = new CancellationTokenSource();
        List<Task<Agent?>> stay;
        await using (await setup.LockAsync())
        {
            _ = FindAsync(service, agent.Id);
            var giveUp = Enumerable.Range(0, 10).Select(_ => FindAsync(service, agent.Id, cancellationToken: hangsUp.Token)).ToList();
            await Assert.ThrowsAsync<TooManyLookupsException>(() => FindAsync(service, agent.Id));
            await hangsUp.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.WhenAll(giveUp));

            stay = [.. Enumerable.Range(0, 10).Select(_ => FindAsync(service, agent.Id))];
        }

        Assert.All(await Task.WhenAll(stay), Assert.NotNull);
    }

    [Fact]
    public async Task TheLookupsOfARequestStayTogether_ALongOneAlone_InTheOrderOfArrival()
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

        // 1 | 30 34 | 64 | 100 | 63 | 2 4 2
        Assert.Equal(6, statements.Count);
        Assert.Equal(lengths, found.Select(one => one.Count));
        Assert.Equal(agents.Take(300).Select(agent => agent.Name), found.SelectMany(one => one).Select(agent => Assert.Single(agent!.Keys).Name));
    }

    [Fact]
    public async Task AQueueIsFullByItsLookups_AndALongRequestIsServedWhereNobodyWaits()
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
    public async Task WhoComesFirstIsAnsweredFirst()
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
    public async Task ALookupOfNobodyNeverReachesTheDatabase()
    {
        var agent = (await AddAgentsAsync(1))[0];
        var nobody = (Caller)RuntimeHelpers.GetUninitializedObject(typeof(Caller));
        using var statements = new StatementCounter(setup.Database, "with ordinality");

        await Assert.ThrowsAsync<ArgumentException>(() => FindAsync(setup.Service, agent.Id, nobody));

        Assert.Equal(0, statements.Count);

        // Nor would it find anything there.
        await using var connection = new NpgsqlConnection(setup.Database.ServiceConnectionString);
        Assert.Empty(await connection.QueryAsync(
            AgentReader.Sql, new { AgentIds = new[] { agent.Id }, OrgIds = new Guid?[] { null }, Subjects = new string?[] { null } }));
    }

    [Theory]
    [InlineData("", 1)]
    [InlineData(";Max Auto Prepare=0", 0)]
    public async Task TheStatementIsPreparedOnce_UnlessTheConnectionStringSaysOtherwise(string settings, long prepared)
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
    public async Task ASchemaThatChangesUnderAPreparedStatementIsNoError()
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

    /// <summary>All are looked up together, once this table is locked no more.</summary>
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

    /// <summary>Two lookups in the one statement in flight, which waits for a lock: they were queued behind one that has been cancelled.</summary>
    private async Task<(Task<Agent?> One, Task<Agent?> Other)> SendTogetherAsync(
        TestService service, (Guid AgentId, CancellationToken GivesUp) one, (Guid AgentId, CancellationToken GivesUp) other)
    {
        using var ahead = new CancellationTokenSource();
        _ = FindAsync(service, one.AgentId, cancellationToken: ahead.Token);
        var together = (FindAsync(service, one.AgentId, cancellationToken: one.GivesUp), FindAsync(service, other.AgentId, cancellationToken: other.GivesUp));
        await EventuallyAsync(async () => await setup.CountActiveAsync() is 1);
        var aheadStarted = await OldestActiveAsync();
        await ahead.CancelAsync();
        await EventuallyAsync(async () => await setup.CountActiveAsync() is 1 && await OldestActiveAsync() > aheadStarted);
        return together;
    }

    /// <summary>Agents that are told apart by the names of their keys.</summary>
    private async Task<List<(Guid Id, string Name)>> AddAgentsAsync(int count)
    {
        var ids = await setup.Database.QueryAsync<Guid>(
            $"""
            with agent as (insert into calcom.agents (org_id) select '{s_org}' from generate_series(1, {count}) returning id)
            insert into calcom.agent_keys (agent_id, account_name, api_key) select id, 'key of ' || id, 'cal_secret' from agent returning agent_id
            """);
        return [.. ids.Select(id => (id, $"key of {id}"))];
    }

    private static Task EventuallyAsync(Func<Task<bool>> condition) => Eventually.HoldsAsync(condition, TimeSpan.FromSeconds(1));

    private async Task<DateTime> OldestActiveAsync() => (await setup.Database.QueryAsync<DateTime?>(
        $"select min(query_start) from pg_stat_activity where usename = '{TestDatabase.ServiceLogin}' and state = 'active'"))[0] ?? DateTime.MinValue;

    private Task ExecuteAsync(string sql) => setup.Database.ExecuteAsync(sql);
}
