using Xunit.Abstractions;
using Xunit.Sdk;

namespace CalcomAccounts.Tests.Support;

/// <summary>The tests' one PostgreSQL server, with the service on its own tables and on a platform's views.</summary>
public sealed class ServiceFixture(IMessageSink messages) : IAsyncLifetime
{
    public const string Name = "service";

    internal PostgresServer Server { get; private set; } = null!;

    internal TestDatabase Tables { get; private set; } = null!;

    internal TestDatabase Views { get; private set; } = null!;

    internal TestService Service { get; private set; } = null!;

    internal TestService ServiceOnViews { get; private set; } = null!;

    public async Task InitializeAsync()
    {
        Server = await PostgresServer.ShareAsync(server => messages.OnMessage(new DiagnosticMessage($"The tests run on {server.Description}")));
        Tables = await TestDatabase.OfTablesAsync(Server);
        Views = await TestDatabase.OfViewsAsync(Server);
        Service = await TestService.StartAsync(Tables.ServiceConnectionString);
        ServiceOnViews = await TestService.StartAsync(Views.ServiceConnectionString);
    }

    public async Task DisposeAsync()
    {
        await ServiceOnViews.DisposeAsync();
        await Service.DisposeAsync();
        await PostgresServer.ReturnAsync();
    }
}

[CollectionDefinition(ServiceFixture.Name)]
public sealed class ServiceTests : ICollectionFixture<ServiceFixture>;

/// <summary>The collection of tests that read what all others have logged, or need the machine for themselves: it runs last, alone.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class AfterAllOthers : ICollectionFixture<ServiceFixture>
{
    public const string Name = "after all others";
}
