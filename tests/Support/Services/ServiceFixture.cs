namespace CalcomAccounts.Tests.Support.Services;

/// <summary>Gives a test class the shared services: the service on its own tables, and the service on a platform's views.</summary>
public sealed class ServiceFixture(SharedServices services) : IAsyncLifetime
{
    internal PostgresServer Server => services.Server;

    internal TestDatabase Tables => services.Tables;

    internal TestDatabase Views => services.Views;

    internal TestService Service => services.Service;

    internal TestService ServiceOnViews => services.ServiceOnViews;

    internal TestService DistributedService => services.DistributedService;

    internal TestService DistributedServiceOnViews => services.DistributedServiceOnViews;

    public async ValueTask InitializeAsync() => await services.StartOnceAsync();

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
