[assembly: AssemblyFixture(typeof(SharedServices))]

namespace CalcomAccounts.Tests.Support.Services;

/// <summary>The PostgreSQL server and the services that all test classes share, started for the first class that asks for them.</summary>
public sealed class SharedServices : IAsyncDisposable
{
    private readonly Lazy<Task> _started;

    public SharedServices() => _started = new(StartAsync);

    internal PostgresServer Server { get; private set; } = null!;

    internal TestDatabase Tables { get; private set; } = null!;

    internal TestDatabase Views { get; private set; } = null!;

    internal TestService Service { get; private set; } = null!;

    internal TestService ServiceOnViews { get; private set; } = null!;

    /// <summary>On the tables, as if they were distributed.</summary>
    internal TestService DistributedService { get; private set; } = null!;

    /// <summary>On the views, as if they were distributed.</summary>
    internal TestService DistributedServiceOnViews { get; private set; } = null!;

    public Task StartOnceAsync() => _started.Value;

    public async ValueTask DisposeAsync()
    {
        if (_started.IsValueCreated)
        {
            await DistributedServiceOnViews.DisposeAsync();
            await DistributedService.DisposeAsync();
            await ServiceOnViews.DisposeAsync();
            await Service.DisposeAsync();
            await Server.DisposeAsync();
        }
    }

    private async Task StartAsync()
    {
        Server = await PostgresServer.StartAsync();
        TestContext.Current.SendDiagnosticMessage("The tests run on {0}", Server.Description);
        Tables = await TestDatabase.OfTablesAsync(Server);
        Views = await TestDatabase.OfViewsAsync(Server);
        Service = await TestService.StartAsync(Tables.ServiceConnectionString);
        ServiceOnViews = await TestService.StartAsync(Views.ServiceConnectionString);
        DistributedService = await TestService.StartAsync(Tables.ServiceConnectionString, new() { ["CalcomAccounts:Distributed"] = "true" });
        DistributedServiceOnViews = await TestService.StartAsync(Views.ServiceConnectionString, new() { ["CalcomAccounts:Distributed"] = "true" });
    }
}
