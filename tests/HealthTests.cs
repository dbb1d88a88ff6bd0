using System.Diagnostics;
using Npgsql;

namespace CalcomAccounts.Tests;

/// <summary>Liveness never asks the database; readiness does, and answers within two seconds.</summary>
[Collection(ServiceFixture.Name)]
public sealed class HealthTests(ServiceFixture fixture)
{
    [Theory]
    [InlineData("/health/live")]
    [InlineData("/health/ready")]
    public async Task AHealthyServiceIsLiveAndReady_WithoutAToken(string path)
    {
        var answer = await fixture.Service.SendAsync("GET", path);

        Assert.Equal((200, "Healthy"), (answer.Status, answer.Body));
    }

    [Fact]
    public async Task WithoutADatabaseItIsLiveAndNotReady()
    {
        await using var service = await TestService.StartAsync("Host=127.0.0.1;Port=1;Username=nobody");

        Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
        Assert.Equal((503, "Unhealthy"), await ReadyAsync(service));
    }

    [Fact]
    public async Task WithoutTheSchemaItIsNotReady()
    {
        await using var service = await TestService.StartAsync(await fixture.Server.CreateDatabaseAsync());

        Assert.Equal((503, "Unhealthy"), await ReadyAsync(service));
    }

    [Fact]
    public async Task WithADatabaseThatDoesNotAnswerItIsLiveAndNotReadyWithinTwoSeconds()
    {
        await using var connection = new NpgsqlConnection(fixture.Tables.OwnerConnectionString);
        await connection.OpenAsync();
        await using var transaction = await connection.BeginTransactionAsync();
        await using (var command = new NpgsqlCommand("lock table calcom.agents", connection, transaction))
        {
            await command.ExecuteNonQueryAsync();
        }

        var started = Stopwatch.GetTimestamp();
        Assert.Equal((503, "Unhealthy"), await ReadyAsync(fixture.Service));
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 0, 2);
        Assert.Equal(200, (await fixture.Service.SendAsync("GET", "/health/live")).Status);

        await transaction.RollbackAsync();
        Assert.Equal((200, "Healthy"), await ReadyAsync(fixture.Service));
    }

    private static async Task<(int, string)> ReadyAsync(TestService service)
    {
        var answer = await service.SendAsync("GET", "/health/ready");
        return (answer.Status, answer.Body);
    }
}
