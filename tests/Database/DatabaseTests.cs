using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>docs/database.md: constraints, privileges, session settings and statements per request.</summary>
public sealed class DatabaseTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private readonly Guid _org = Guid.NewGuid();

    [Theory]
    [InlineData("db1,db2:5433,[::1]:5434,::1", "db1:5432,db2:5433,[::1]:5434,::1:5432")]
    [InlineData("/run/postgresql", "/run/postgresql:5432")]
    public void ServerDescription_SeveralHosts_NamesEachWithItsPort(string host, string expected) =>
        Assert.Equal($"{expected}, database platform", ConnectionStrings.Describe(new() { Host = host, Database = "platform", Username = "owner" }));

    // The unique index has to agree with the policy on what connected means.
    public static TheoryData<bool, string?, bool> ConnectedStates()
    {
        var data = new TheoryData<bool, string?, bool>();
        foreach (var (hasApiKey, status, connected, _) in AccountStates.All)
        {
            data.Add(hasApiKey, status, connected);
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(ConnectedStates))]
    public async Task SecondConnectedKeyOfAnAgent_ViolatesUniqueIndex(bool hasApiKey, string? status, bool connected)
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        var key = new StoredAccount { Status = status, ApiKey = hasApiKey ? "cal_secret" : null };
        await fixture.Tables.AddKeyAsync(agent, new());

        var second = await Record.ExceptionAsync(() => fixture.Tables.AddKeyAsync(agent, key));

        Assert.Equal(connected ? PostgresErrorCodes.UniqueViolation : null, (second as PostgresException)?.SqlState);
    }

    [Fact]
    public async Task LinkToForeignAccount_ViolatesForeignKey()
    {
        var foreign = await fixture.Tables.AddOrgAccountAsync(Guid.NewGuid(), new());

        var refusal = await Assert.ThrowsAsync<PostgresException>(() => fixture.Tables.AddAgentAsync(_org, foreign));

        Assert.Equal(PostgresErrorCodes.ForeignKeyViolation, refusal.SqlState);
    }

    [Theory]
    [InlineData("agent_keys")]
    [InlineData("org_accounts")]
    public async Task NullOrBlankApiKey_CountsAsNoApiKey(string table)
    {
        var (columns, values) = table is "agent_keys" ? ("org_id, agent_id", "@_org, @agent") : ("org_id", "@_org");
        var agent = await fixture.Tables.AddAgentAsync(_org);

        var hasApiKey = await fixture.Tables.QueryAsync<bool>(
            $"""
            insert into calcom.{table} ({columns}, api_key, status)
            values ({values}, null, 'a'), ({values}, '', 'b'), ({values}, ' ', 'c'), ({values}, 'k', 'd') returning has_api_key
            """,
            new { _org, agent });

        Assert.Equal([false, false, false, true], hasApiKey);
    }

    [Theory]
    [InlineData("select id, org_id, name, org_account_id, deleted_at from calcom.agents")]
    [InlineData("select id, org_id, agent_id, account_name, has_api_key, api_base_url, status, created_at from calcom.agent_keys")]
    [InlineData("select id, org_id, account_name, has_api_key, api_base_url, status, created_at from calcom.org_accounts")]
    [InlineData("select org_id, subject from calcom.org_members")]
    public async Task ServiceLogin_CanReadTheNeededColumns(string sql) => Assert.Null(await RunAsServiceAsync(sql));

    [Theory]
    [InlineData("select api_key from calcom.agent_keys")]
    [InlineData("select api_key from calcom.org_accounts")]
    [InlineData("select * from calcom.agent_keys")]
    [InlineData("select k from calcom.org_accounts k")]
    [InlineData("select count(*) from calcom.agent_keys where api_key like 'a%'")]
    [InlineData("insert into calcom.agents (org_id) values (gen_random_uuid())")]
    [InlineData("insert into calcom.org_members values (gen_random_uuid(), 'me')")]
    [InlineData("update calcom.agents set name = 'x'")]
    [InlineData("update calcom.agent_keys set status = 'x'")]
    [InlineData("update calcom.org_accounts set status = 'x'")]
    [InlineData("update calcom.org_members set subject = 'x'")]
    [InlineData("delete from calcom.agents")]
    [InlineData("delete from calcom.agent_keys")]
    [InlineData("delete from calcom.org_accounts")]
    [InlineData("delete from calcom.org_members")]
    [InlineData("truncate calcom.org_members")]
    [InlineData("create table calcom.mine ()")]
    [InlineData("drop table calcom.agent_keys")]
    [InlineData("select * from calcom.schema_versions")]
    [InlineData("create role mine")]
    public async Task ServiceLogin_CanNeitherReadApiKeysNorWrite(string sql) =>
        Assert.Equal(PostgresErrorCodes.InsufficientPrivilege, (await RunAsServiceAsync(sql))?.SqlState);

    [Fact]
    public async Task ServiceSession_AsOwner_IsReadOnlyWithStatementTimeout()
    {
        await using var service = await TestService.StartAsync(fixture.Tables.OwnerConnectionString);
        await using var connection = await service.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();

        var refusal = await Assert.ThrowsAsync<PostgresException>(() => connection.ExecuteAsync("delete from calcom.org_members"));
        Assert.Equal(PostgresErrorCodes.ReadOnlySqlTransaction, refusal.SqlState);
        refusal = await Assert.ThrowsAsync<PostgresException>(() => connection.ExecuteAsync("select pg_sleep(3)"));
        Assert.Equal(PostgresErrorCodes.QueryCanceled, refusal.SqlState);
        Assert.Equal("1500ms", await SettingAsync(connection, "statement_timeout"));
        Assert.Equal("1500ms", await SettingAsync(connection, "idle_in_transaction_session_timeout"));
        Assert.Equal("calcom-accounts", await SettingAsync(connection, "application_name"));
    }

    [Fact]
    public async Task ConnectionStringOptions_OverrideTheDefaults()
    {
        await using var service = await TestService.StartAsync(
            fixture.Tables.ServiceConnectionString + ";Application Name=mine;Options=-c statement_timeout=4321", new() { ["CalcomAccounts:RequestTimeoutSeconds"] = "10" });
        await using var connection = await service.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();

        Assert.Equal("mine", await SettingAsync(connection, "application_name"));
        Assert.Equal("4321ms", await SettingAsync(connection, "statement_timeout"));
        Assert.Equal(4, connection.CommandTimeout);

        // For connection poolers that accept no startup options.
        await using var plain = await TestService.StartAsync(fixture.Tables.ServiceConnectionString + ";Options=");
        await using var session = await plain.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();
        Assert.Equal("0", await SettingAsync(session, "statement_timeout"));
    }

    [Fact]
    public async Task EveryRequest_ExecutesAtMostOneStatement()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        var account = await database.AddOrgAccountAsync(_org, new());
        var agent = await database.AddAgentAsync(_org, account);
        await database.AddKeyAsync(agent, new());
        await database.AddMemberAsync(_org, "member");
        await using var service = await TestService.StartAsync(database.ServiceConnectionString);

        Assert.Equal(1, await CountStatementsAsync(database, () => service.GetAccountAsync(agent, Tokens.OfOrganization(_org)), 200));
        Assert.Equal(1, await CountStatementsAsync(database, () => service.GetAccountAsync(agent, Tokens.OfSubject("member")), 200));
        Assert.Equal(1, await CountStatementsAsync(database, () => service.GetAccountAsync(agent, Tokens.OfSubject("member"), $"?org_id={_org}"), 200));
        Assert.Equal(1, await CountStatementsAsync(database, () => service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(_org)), 404));
        Assert.Equal(1, await CountStatementsAsync(database, () => service.ExplainAccountAsync(agent, Tokens.OfOrganization(_org)), 200));
        Assert.Equal(1, await CountStatementsAsync(database, () => service.GetAccountsAsync([.. Enumerable.Repeat(agent, 100)], Tokens.OfSubject("member")), 200));
        Assert.Equal(0, await CountStatementsAsync(database, () => service.SendAsync("GET", TestService.AccountPath("garbage"), Tokens.OfOrganization(_org)), 400));
        Assert.Equal(0, await CountStatementsAsync(database, () => service.GetAccountsAsync([], Tokens.OfOrganization(_org)), 400));
        Assert.Equal(0, await CountStatementsAsync(database, () => service.GetAccountAsync(agent, token: null), 401));
    }

    /// <summary>PostgreSQL would plan the lookup each time, by its statistics of small tables.</summary>
    [Fact]
    public async Task Lookup_OnSmallTables_IsPlannedOnceASessionAndNotCompiled()
    {
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString);
        await using var connection = await service.Services.GetRequiredService<NpgsqlDataSource>().OpenConnectionAsync();
        await connection.ExecuteAsync($"prepare find (uuid[], uuid[], text[]) as {AgentReader.Sql}");

        for (var i = 0; i < 10; i++)
        {
            await connection.ExecuteAsync("execute find (array[gen_random_uuid()], array[gen_random_uuid()], array[null::text])");
        }

        Assert.Equal((10, 0), await connection.QuerySingleAsync<(int, int)>("select generic_plans::int, custom_plans::int from pg_prepared_statements where name = 'find'"));
        Assert.Equal("off", await SettingAsync(connection, "jit"));
    }

    [Fact]
    public void TestServer_InCi_IsATestcontainer() =>
        Assert.True(fixture.Server.IsTestcontainers || Environment.GetEnvironmentVariable("CI") is not "true", fixture.Server.Description);

    private static Task<string?> SettingAsync(NpgsqlConnection connection, string name) =>
        connection.ExecuteScalarAsync<string>($"show {name}");

    private async Task<PostgresException?> RunAsServiceAsync(string sql)
    {
        await using var connection = new NpgsqlConnection(fixture.Tables.ServiceConnectionString);
        return (PostgresException?)await Record.ExceptionAsync(() => connection.ExecuteAsync(sql));
    }

    private static async Task<int> CountStatementsAsync(TestDatabase database, Func<Task<Answer>> request, int expectedStatus)
    {
        using var statements = new StatementCounter(database);
        Assert.Equal(expectedStatus, (await request()).Status);
        return statements.Count;
    }
}
