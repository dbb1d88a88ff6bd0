using System.Diagnostics;
using System.Globalization;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Npgsql;

namespace CalcomAccounts.Tests.Api;

/// <summary>Liveness does not depend on the database; readiness does, and answers within two seconds.</summary>
public sealed class HealthTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Theory]
    [InlineData("/health/live")]
    [InlineData("/health/ready")]
    public async Task HealthyService_WithoutToken_IsLiveAndReady(string path)
    {
        var answer = await fixture.Service.SendAsync("GET", path);

        Assert.Equal((200, "Healthy"), (answer.Status, answer.Body));
    }

    [Fact]
    public async Task DatabaseUnreachable_IsLiveAndNotReady()
    {
        await using var service = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody");

        Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
        Assert.Equal((503, "Unhealthy"), await ReadyAsync(service));
    }

    [Fact]
    public async Task SchemaMissing_IsNotReady()
    {
        await using var service = await TestService.StartAsync(await fixture.Server.CreateDatabaseAsync());

        Assert.Equal((503, "Unhealthy"), await ReadyAsync(service));
    }

    [Theory]
    [InlineData("1")]
    [InlineData("5")]
    public async Task DatabaseDoesNotAnswer_IsLiveAndNotReadyWithinTwoSeconds(string answerTimeoutSeconds)
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await using var service = await TestService.StartAsync(database.ServiceConnectionString, new() { ["CalcomAccounts:RequestTimeoutSeconds"] = answerTimeoutSeconds });
        await using (await database.LockAsync("agents"))
        {
            var started = Stopwatch.GetTimestamp();
            Assert.Equal((503, "Unhealthy"), await ReadyAsync(service));
            Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 2);
            Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
        }

        Assert.Equal((200, "Healthy"), await ReadyAsync(service));
    }

    [Fact]
    public async Task ViewsWithoutApiKeyColumn_IsReady() => Assert.Equal((200, "Healthy"), await ReadyAsync(fixture.ServiceOnViews));

    [Theory]
    [InlineData("superuser", "alter role {0} superuser")]
    [InlineData("grant_on_table", "grant select on calcom.agent_keys to {0}")]
    [InlineData("grant_on_column", "grant select (api_key) on calcom.org_accounts to {0}")]
    [InlineData("member_of_all_readers", "grant pg_read_all_data to {0}")]
    [InlineData("member_without_inheriting", "create role key_owner; grant select on calcom.agent_keys to key_owner; create role between noinherit; grant key_owner to between; grant between to {0}")]
    public async Task LoginCanReadApiKeys_IsNotReadyAndLogsTheReason(string name, string privileges)
    {
        var login = $"reads_keys_as_{name}";
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await database.ExecuteAsync($"create role {login} login password '{TestDatabase.ServicePassword}' in role calcom_reader");
        var connectionString = new NpgsqlConnectionStringBuilder(database.ServiceConnectionString) { Username = login }.ConnectionString;
        var log = new CapturedLog(LogLevel.Error);
        await using var service = await TestService.StartAsync(connectionString, configure: builder => builder.Logging.AddProvider(log));
        Assert.Equal((200, "Healthy"), await ReadyAsync(service));

        await database.ExecuteAsync(string.Format(CultureInfo.InvariantCulture, privileges, login));

        Assert.Equal((503, "Unhealthy"), await ReadyAsync(service));
        Assert.Contains("the database login can read api_key", await log.SingleLineAsync(), StringComparison.Ordinal);
        await using var development = await TestService.StartAsync(connectionString, new() { ["environment"] = "Development" });
        Assert.Equal((200, "Healthy"), await ReadyAsync(development));
    }

    [Fact]
    public async Task HealthCheckThrows_Returns500AndIsLogged()
    {
        var log = new CapturedLog(LogLevel.Error);
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, configure: builder =>
        {
            builder.Logging.AddProvider(log);
            builder.Services.AddHealthChecks().Add(new("broken", _ => throw new InvalidOperationException("can't be made"), failureStatus: null, tags: null));
        });

        Assert.Equal(500, (await ReadyAsync(service)).Item1);
        Assert.Contains("can't be made", await log.SingleLineAsync(), StringComparison.Ordinal);
    }

    private static async Task<(int, string)> ReadyAsync(TestService service)
    {
        var answer = await service.SendAsync("GET", "/health/ready");
        return (answer.Status, answer.Body);
    }
}
