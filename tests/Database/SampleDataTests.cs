using CalcomAccounts.Infrastructure.Development;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Database;

/// <summary>The sample data of <c>dotnet run</c>, and the login that reads it.</summary>
public sealed class SampleDataTests(SampleDataFixture setup) : IClassFixture<SampleDataFixture>
{
    [Fact]
    public async Task SampleLogin_HasOnlyTheReaderRole()
    {
        await using var connection = new NpgsqlConnection(setup.ConnectionString);

        Assert.Equal("calcom_reader", await connection.ExecuteScalarAsync<string>(
            "select string_agg(rolname, ',') from pg_roles where rolname <> current_user and pg_has_role(current_user, oid, 'member')"));
        Assert.False(await connection.ExecuteScalarAsync<bool>(
            "select rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls from pg_roles where rolname = current_user"));
    }

    [Fact]
    public async Task SampleData_HasOneAgentPerOutcome()
    {
        Assert.Equal(["agent", "none", "org_linked"], SampleData.AgentIds.Keys.Order());
        foreach (var (outcome, agent) in SampleData.AgentIds)
        {
            var answer = await setup.Service.GetAccountAsync(agent, Tokens.OfOrganization(SampleData.OrgId));
            Assert.Contains($"\"type\":\"{outcome}\"", answer.Body, StringComparison.Ordinal);
        }
    }
}
