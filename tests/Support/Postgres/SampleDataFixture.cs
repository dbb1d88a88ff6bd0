using CalcomAccounts.Infrastructure.Development;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>A service on the sample data, on a server as <c>dotnet run</c> starts it.</summary>
public sealed class SampleDataFixture : IAsyncLifetime
{
    private EmbeddedPostgres _server = null!;

    internal string ConnectionString { get; private set; } = null!;

    internal TestService Service { get; private set; } = null!;

    public async ValueTask InitializeAsync()
    {
        _server = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        ConnectionString = await SampleData.LoadAsync(_server.ConnectionString, CancellationToken.None);
        Service = await TestService.StartAsync(ConnectionString);
    }

    public async ValueTask DisposeAsync()
    {
        await Service.DisposeAsync();
        await _server.DisposeAsync();
    }
}
