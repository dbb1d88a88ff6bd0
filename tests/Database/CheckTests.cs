using System.Text.Json.Nodes;
using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure.Diagnostics;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>The report of <c>check</c> for good databases, and for databases with a single defect.</summary>
public sealed class CheckTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private static readonly string[] s_checks =
        ["connection", "agents", "agent_keys", "org_accounts", "org_members", "login_reads", "login_reads_no_key", "login_writes_nothing", "distribution", "ids", "answer", "plan"];

    [Fact]
    public async Task MigratedTables_PassEveryCheck()
    {
        var report = await CheckAsync(await TestDatabase.OfTablesAsync(fixture.Server));

        Assert.True(report.Ok, Failures(report));
        Assert.Equal(s_checks, report.Checks.Select(check => check.Name));
        Assert.Matches(@"^PostgreSQL \d+\.\d+$", report.Checks[0].Detail);
        Assert.All(report.Checks.Skip(1).Take(4), check => Assert.Equal("table", check.Detail));
        Assert.Equal(
            ["the login can read all columns that requests need", "the login can't read api_key", "the login can't write these relations"],
            report.Checks.Skip(5).Take(3).Select(check => check.Detail));
        Assert.Matches(@"^the service's statement succeeds, in \d+ ms the first time$", report.Checks[10].Detail);
        Assert.Equal(
            ("the tables are on one server", "all ids are unique and not null", "a lookup uses indexes only"),
            (report.Checks[8].Detail, report.Checks[9].Detail, report.Checks[11].Detail));
    }

    [Fact]
    public async Task ViewsOverIndexedTables_PassEveryCheck()
    {
        var views = await TestDatabase.OfViewsAsync(fixture.Server);
        var agent = await views.AddAgentAsync(Guid.NewGuid(), Guid.NewGuid());
        await views.AddKeyAsync(agent, new());

        var failure = Assert.Single((await CheckAsync(views)).Checks, check => !check.Ok);
        Assert.Equal(("plan", "an index is missing; a lookup scans all rows of assistant_secrets, assistants, calendars, workspace_users"), (failure.Name, failure.Detail));

        await views.ExecuteAsync(Docs.Block("docs/database.md", "sql", "create index"));
        var report = await CheckAsync(views);
        Assert.True(report.Ok, Failures(report));
        Assert.All(report.Checks.Skip(1).Take(4), check => Assert.Equal("view", check.Detail));
    }

    [Theory]
    [InlineData("drop table calcom.org_members", "org_members", "is missing")]
    [InlineData("alter table calcom.agent_keys drop column org_id cascade", "agent_keys", "column org_id is missing: run 'migrate', or add the org_id of the key's agent to the view")]
    [InlineData("alter table calcom.agents drop column org_account_id", "agents", "column org_account_id is missing")]
    [InlineData("alter table calcom.agents drop column name, drop column deleted_at", "agents", "column name is missing; column deleted_at is missing")]
    [InlineData("alter table calcom.org_members alter column org_id type text", "org_members", "column org_id is text, not uuid")]
    [InlineData("alter table calcom.org_accounts alter column created_at drop default, alter column created_at type date", "org_accounts", "column created_at is date, not timestamptz")]
    [InlineData("alter table calcom.org_members rename to members; create materialized view calcom.org_members as select org_id, subject from calcom.members; grant select on calcom.org_members to calcom_reader", "org_members", "materialized view")]
    [InlineData("alter table calcom.agent_keys enable row level security", "agent_keys", "row-level security hides its rows")]
    [InlineData("revoke usage on schema calcom from calcom_reader", "login_reads", "no usage privilege on schema calcom")]
    [InlineData("revoke select (status) on calcom.agent_keys from calcom_reader", "login_reads", "can't read agent_keys.status: ")]
    [InlineData("grant select on calcom.agent_keys to calcom_reader", "login_reads_no_key", "api_key")]
    [InlineData("grant select (api_key) on calcom.org_accounts to calcom_test_service", "login_reads_no_key", "api_key")]
    [InlineData("grant insert on calcom.agents to calcom_reader", "login_writes_nothing", "can write agents: ")]
    [InlineData("grant delete on calcom.agents to calcom_reader; grant update (status) on calcom.org_accounts to calcom_reader", "login_writes_nothing", "can write agents, org_accounts: ")]
    [InlineData("alter table calcom.agents rename to t; create view calcom.agents as select id, org_id, name, org_account_id, deleted_at, 1 / (random() * 0)::int as x from calcom.t where 1 / (random() * 0)::int = 1; grant select on calcom.agents to calcom_reader; insert into calcom.t (org_id) values (gen_random_uuid())", "statement", "division by zero")]
    [InlineData("alter table calcom.org_members rename to t; create function calcom.same(uuid) returns uuid language plpgsql as 'begin return $1; end'; revoke execute on function calcom.same from public; create view calcom.org_members as select calcom.same(org_id) as org_id, subject from calcom.t; grant select on calcom.org_members to calcom_reader", "answer", "permission denied")]
    [InlineData("alter table calcom.agents drop constraint agents_pkey cascade, alter id drop not null; insert into calcom.agents (id, org_id) select id, gen_random_uuid() from (values (gen_random_uuid()), (null)) agent (id), generate_series(1, 2)", "ids", "null or duplicate ids: agents: 2")]
    [InlineData("alter table calcom.org_accounts drop constraint org_accounts_pkey cascade, alter id drop not null; create index on calcom.org_accounts (id); insert into calcom.org_accounts (id, org_id) values (null, gen_random_uuid())", "ids", "null or duplicate ids: org_accounts: 1")]
    [InlineData("drop index calcom.agent_keys_org_id_agent_id_created_at_id, calcom.agent_keys_agent_id_created_at_id", "plan", "a lookup scans all rows of agent_keys")]
    [InlineData("drop index calcom.agents_id", "plan", "a lookup scans all rows of agents")]
    [InlineData("alter table calcom.agents drop constraint agents_pkey cascade; drop index calcom.agents_id", "plan", "a lookup scans all rows of agents")]
    [InlineData("drop index calcom.org_members_subject_org_id; alter table calcom.org_members drop constraint org_members_pkey", "plan", "a lookup scans all rows of org_members")]
    [InlineData("drop index calcom.org_members_subject_org_id; alter table calcom.org_members drop constraint org_members_pkey; create index on calcom.org_members ((1)) include (org_id, subject)", "plan", "a lookup scans all rows of org_members_expr_org_id_subject_idx")]
    public async Task SingleDefect_FailsOnlyItsOwnCheck(string sql, string name, string detail)
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await database.ExecuteAsync(sql);

        var report = await CheckAsync(database);

        Assert.False(report.Ok);
        var failure = Assert.Single(report.Checks, check => !check.Ok);
        Assert.Equal(name, failure.Name);
        Assert.Contains(detail, failure.Detail, StringComparison.Ordinal);
    }

    [Fact]
    public async Task SchemaMissing_ReportsOnlyThat()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await database.ExecuteAsync("drop schema calcom cascade");

        var report = await CheckAsync(database);

        Assert.Equal(["connection", "schema"], report.Checks.Select(check => check.Name));
        Assert.Equal("there is no schema calcom: run 'migrate' as the database's owner, or create views as in docs/database.md", report.Checks[1].Detail);
        Assert.Null(report.Data);
        Assert.EndsWith("The service can not use this database: 1 check failed.", CheckReport.ToText(report), StringComparison.Ordinal);
    }

    [Fact]
    public async Task SuperuserLogin_FailsThePrivilegeChecks()
    {
        var report = await DatabaseCheck.RunAsync((await TestDatabase.OfTablesAsync(fixture.Server)).OwnerConnectionString, isDistributed: false, CancellationToken.None);

        Assert.Equal(["login_reads_no_key", "login_writes_nothing"], report.Checks.Where(check => !check.Ok).Select(check => check.Name));
    }

    [Theory]
    [InlineData("Host=127.0.0.1;Port=1", "refused")]
    [InlineData("Database=nowhere", "the database does not exist (SQLSTATE 3D000")]
    [InlineData("Username=nobody", "the login was refused (SQLSTATE 28")]
    public async Task ConnectionFails_ReportsOnlyThat(string change, string detail)
    {
        var report = await DatabaseCheck.RunAsync($"{fixture.Tables.ServiceConnectionString};{change}", isDistributed: false, CancellationToken.None);

        var check = Assert.Single(report.Checks);
        Assert.Equal(("connection", false), (check.Name, check.Ok));
        Assert.Contains(detail, check.Detail, StringComparison.Ordinal);
        Assert.Null(report.Data);
        Assert.EndsWith("The database could not be reached.", CheckReport.ToText(report), StringComparison.Ordinal);
    }

    [Fact]
    public async Task CompatibleColumnTypes_PassEveryCheck()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await database.ExecuteAsync("""
            create domain calcom.label as varchar(80);
            create domain calcom.short_label as calcom.label;
            alter table calcom.agent_keys alter column account_name type calcom.short_label;
            alter table calcom.org_accounts alter column api_base_url type char(40);
            alter table calcom.agents alter column deleted_at type timestamp;
            alter table calcom.agents enable row level security;
            create policy everybody on calcom.agents for select to calcom_reader using (true);
            """);
        var agent = await database.AddAgentAsync(Guid.NewGuid());
        await database.AddKeyAsync(agent, new());

        var report = await CheckAsync(database);

        Assert.True(report.Ok, Failures(report));
    }

    [Fact]
    public async Task DataCounts_CoverEveryKindOfConflict()
    {
        var (one, other) = (Guid.NewGuid(), Guid.NewGuid());
        var views = await TestDatabase.OfViewsAsync(fixture.Server);
        var own = await views.AddOrgAccountAsync(one, new() { Name = " \t" });
        var foreign = await views.AddOrgAccountAsync(other, new() { Name = null });
        for (var i = 0; i < 3; i++)
        {
            var both = await views.AddAgentAsync(one, own);
            await views.AddKeyAsync(both, new());
            await views.AddKeyAsync(both, new() { Status = " Inactive " });
        }

        foreach (var _ in new[] { 1, 2 })
        {
            var twoKeys = await views.AddAgentAsync(one);
            await views.AddKeyAsync(twoKeys, new() { Status = null });
            await views.AddKeyAsync(twoKeys, new() { Name = "" });
        }

        await views.AddAgentAsync(one, Guid.NewGuid());
        for (var i = 0; i < 4; i++)
        {
            await views.AddAgentAsync(one, foreign);
        }

        var linkedAlone = await views.AddAgentAsync(one, own);
        await views.AddOrgAccountAsync(other, new() { Status = new string('x', 65) });
        await views.AddKeyAsync(linkedAlone, new() { ApiKey = null });
        var deleted = await views.AddAgentAsync(one, foreign, deleted: true);
        await views.AddKeyAsync(deleted, new());
        await views.AddKeyAsync(deleted, new());

        Assert.Equal(new DatabaseCounts(Agents: 11, TwoConnectedKeys: 2, KeyAndLink: 3, DanglingLink: 1, ForeignLink: 4, BlankName: 4, LongText: 1), (await CheckAsync(views)).Data);
    }

    [Fact]
    public async Task CheckCommand_GoodDatabase_PrintsReportAndExitsWithZero()
    {
        var agent = await fixture.Tables.AddAgentAsync(Guid.NewGuid());
        using var check = Start("check", fixture.Tables.ServiceConnectionString);

        Assert.Equal((0, ""), (await check.WaitForExitAsync(), check.Errors));
        Assert.EndsWith("\nThe database has everything that the service needs.", check.Output, StringComparison.Ordinal);
        Assert.InRange(check.Output.Split('\n').Length, s_checks.Length, 24);
        Assert.All(check.Output.Split('\n'), line => Assert.InRange(line.Length, 0, 100));
        Assert.All(s_checks, name => Assert.Contains($"\nok    {name} ", check.Output, StringComparison.Ordinal));
        Assert.DoesNotContain("FAIL", check.Output, StringComparison.Ordinal);
        Assert.DoesNotContain(agent.ToString(), check.Output, StringComparison.Ordinal);
        Assert.DoesNotContain(TestDatabase.ServicePassword, check.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task CheckCommand_FailedChecks_ExitsWithOne()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await database.ExecuteAsync("grant select on calcom.agent_keys to calcom_reader; drop index calcom.agents_id");
        using var check = Start("check", database.ServiceConnectionString);

        Assert.Equal((1, ""), (await check.WaitForExitAsync(), check.Errors));
        Assert.Contains("\nFAIL  login_reads_no_key ", check.Output, StringComparison.Ordinal);
        Assert.Contains("\nFAIL  plan ", check.Output, StringComparison.Ordinal);
        Assert.EndsWith("\nThe service can not use this database: 2 checks failed.", check.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", 0)]
    [InlineData(";Database=nowhere", 1)]
    public async Task CheckCommand_Json_PrintsOneLineOfJson(string change, int exitCode)
    {
        using var check = Start("check --json", fixture.Tables.ServiceConnectionString + change);

        Assert.Equal((exitCode, ""), (await check.WaitForExitAsync(), check.Errors));
        var report = JsonNode.Parse(Assert.Single(check.Output.Split('\n')))!.AsObject();
        Assert.Equal(exitCode is 0, report["ok"]!.GetValue<bool>());
        var first = report["checks"]![0]!.AsObject();
        Assert.Equal(["name", "ok", "detail"], first.Select(member => member.Key));
        Assert.Equal(("connection", exitCode is 0), (first["name"]!.GetValue<string>(), first["ok"]!.GetValue<bool>()));
        Assert.Equal(
            exitCode is 0 ? ["agents", "two_connected_keys", "key_and_link", "dangling_link", "foreign_link", "blank_name", "long_text"] : null,
            report["data"]?.AsObject().Select(member => member.Key));
        Assert.DoesNotContain(TestDatabase.ServicePassword, check.Output, StringComparison.Ordinal);
    }

    private static Task<DatabaseReport> CheckAsync(TestDatabase database) =>
        DatabaseCheck.RunAsync(database.ServiceConnectionString, isDistributed: false, CancellationToken.None);

    private static string Failures(DatabaseReport report) => string.Join("; ", report.Checks.Where(check => !check.Ok).Select(check => check.Detail));

    private static ServiceProcess Start(string arguments, string connectionString) => ServiceProcess.Start(
        arguments.Split(' '), new() { ["ConnectionStrings__CalcomAccounts"] = new NpgsqlConnectionStringBuilder(connectionString).ConnectionString });
}
