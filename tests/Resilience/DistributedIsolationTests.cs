using System.Collections.Concurrent;
using System.Diagnostics;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Tests.Resilience;

/// <summary>
/// docs/scaling.md: a server that hangs or fails costs its own organizations. Each partition stands for a server; the lookups of one are
/// held up or fail while the organizations of the others measure their rate.
/// </summary>
[Collection(AfterAllOthers.Name)]
public sealed class DistributedIsolationTests(DistributedIsolationTests.Setup setup) : IClassFixture<DistributedIsolationTests.Setup>
{
    private const int Connections = 16;
    private static readonly TimeSpan s_duration = TimeSpan.FromSeconds(2);

    [Theory]
    [InlineData(2)]
    [InlineData(8)]
    public Task LockedPartition_LeavesOthersTheirShare(int statements) => AssertOthersKeepTheirShareAsync(statements, async () =>
    {
        var connection = new NpgsqlConnection(setup.Database.OwnerConnectionString + ";Pooling=false");
        await connection.OpenAsync();
        await connection.ExecuteAsync($"begin; lock table {setup.LostPartition}");
        return connection;
    });

    [Theory]
    [InlineData(2)]
    [InlineData(8)]
    public Task OrganizationsWhoseStatementsSleep_LeaveOthersTheirShare(int statements) => AssertOthersKeepTheirShareAsync(statements, () => setup.ChangeAsync("slow"));

    [Theory]
    [InlineData(2)]
    [InlineData(8)]
    public Task OrganizationsWhoseStatementsFail_LeaveOthersTheirShare(int statements) => AssertOthersKeepTheirShareAsync(statements, () => setup.ChangeAsync("failing"));

    /// <param name="statements">How many may be in flight.</param>
    /// <param name="loseAsync">Makes the lookups of the lost partition hang or fail until the result is disposed.</param>
    private async Task AssertOthersKeepTheirShareAsync(int statements, Func<Task<IAsyncDisposable>> loseAsync)
    {
        using var process = ServiceProcess.Start([ProcessSettings.AnyPort], new(ProcessSettings.Complete(setup.Database))
        {
            ["CalcomAccounts__Distributed"] = "true",
            ["CalcomAccounts__MaxConcurrentStatements"] = $"{statements}",

            // While .NET takes the profile of its code, which is the whole time here, a service is slower than before and after.
            ["DOTNET_TieredPGO"] = "0",
        });
        var url = await process.WaitForUrlAsync();
        await MeasureAsync(url, setup.Others, s_duration);
        using var ended = new CancellationTokenSource();
        var hasFailed = new TaskCompletionSource();
        var losing = MeasureAsync(url, setup.Lost, TimeSpan.FromMinutes(1), () => hasFailed.TrySetResult(), ended.Token);
        var before = await MeasureAsync(url, setup.Others, s_duration);

        Measured after;
        await using (await loseAsync())
        {
            after = await MeasureAsync(url, setup.Others, s_duration);
            using var connection = await KeepAliveConnection.OpenAsync(url);
            Assert.Equal(200, await connection.SendAsync(KeepAliveConnection.Get("/health/ready", token: null), CancellationToken.None));

            // Otherwise those that still wait would be answered after all.
            await hasFailed.Task.WaitAsync(TimeSpan.FromSeconds(10));
            await ended.CancelAsync();
        }

        var lost = await losing;
        var seen = $"before {before}, after {after}, lost {lost}";
        Assert.True(after.Failed is 0 && lost.Failed > 0, seen);

        // Twice the 100 ms of quiet processors, and more where the others were slow before, as all clients use the same ones.
        Assert.True(after.PerSecond >= before.PerSecond * 0.7 && after.P99 < TimeSpan.FromMilliseconds(Math.Max(200, 4 * before.P99.TotalMilliseconds)), seen);
    }

    /// <summary>Asks for accounts from several connections, each as soon as it is answered.</summary>
    private static async Task<Measured> MeasureAsync(string url, IReadOnlyList<byte[]> requests, TimeSpan duration, Action? onFailed = null, CancellationToken ended = default)
    {
        var times = new ConcurrentBag<TimeSpan>();
        var failed = 0;
        var began = Stopwatch.GetTimestamp();
        await Task.WhenAll(Enumerable.Range(0, Connections).Select(index => Task.Run(async () =>
        {
            using var connection = await KeepAliveConnection.OpenAsync(url);
            for (var i = index * 7; Stopwatch.GetElapsedTime(began) < duration && !ended.IsCancellationRequested; i++)
            {
                var asked = Stopwatch.GetTimestamp();
                if (await connection.SendAsync(requests[i % requests.Count], CancellationToken.None) is not 200)
                {
                    Interlocked.Increment(ref failed);
                    onFailed?.Invoke();
                }

                times.Add(Stopwatch.GetElapsedTime(asked));
            }
        })));
        var sorted = times.Order().ToList();
        return new(sorted.Count / Stopwatch.GetElapsedTime(began).TotalSeconds, sorted[sorted.Count / 2], sorted[sorted.Count * 99 / 100], failed);
    }

    private sealed record Measured(double PerSecond, TimeSpan P50, TimeSpan P99, int Failed)
    {
        public override string ToString() => $"{PerSecond:0}/s p50 {P50.TotalMilliseconds:0.0} ms p99 {P99.TotalMilliseconds:0.0} ms, {Failed} failed";
    }

    /// <summary>A database in partitions with 64 organizations, a quarter of them or so in the partition that is lost.</summary>
    public sealed class Setup(SharedServices services) : IAsyncLifetime
    {
        internal TestDatabase Database { get; private set; } = null!;

        internal string LostPartition { get; private set; } = null!;

        internal IReadOnlyList<byte[]> Lost { get; private set; } = null!;

        internal IReadOnlyList<byte[]> Others { get; private set; } = null!;

        public async ValueTask InitializeAsync()
        {
            await services.StartOnceAsync();
            Database = await TestDatabase.OfPartitionsAsync(services.Server);
            var agents = await Database.QueryAsync<(Guid OrgId, Guid Id, string Partition)>("""
                insert into calcom.agents (org_id, name)
                    select org_id, 'well' from (select gen_random_uuid() as org_id from generate_series(1, 64)) org cross join generate_series(1, 10)
                    returning org_id, id, tableoid::regclass::text
                """);
            LostPartition = agents[0].Partition;
            await Database.HeedNamesOfAgentsAsync();
            foreach (var orgId in agents.Select(agent => agent.OrgId).Distinct())
            {
                await Database.AddMemberAsync(orgId, $"member of {orgId}");
            }

            // Every other caller has a token that names no organization.
            var requests = agents.Index().ToLookup(
                agent => agent.Item.Partition == LostPartition,
                agent => KeepAliveConnection.Get(
                    TestService.AccountPath(agent.Item.Id.ToString()),
                    agent.Index % 2 is 0 ? Tokens.OfOrganization(agent.Item.OrgId) : Tokens.OfSubject($"member of {agent.Item.OrgId}")));
            (Lost, Others) = ([.. requests[true]], [.. requests[false]]);
        }

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;

        /// <summary>Gives every agent of the lost partition a name, until the result is disposed.</summary>
        internal async Task<IAsyncDisposable> ChangeAsync(string name)
        {
            await Database.ExecuteAsync($"update {LostPartition} set name = @name", new { name });
            return new Undo(() => Database.ExecuteAsync($"update {LostPartition} set name = 'well'"));
        }

        private sealed class Undo(Func<Task> undo) : IAsyncDisposable
        {
            public async ValueTask DisposeAsync() => await undo();
        }
    }
}
