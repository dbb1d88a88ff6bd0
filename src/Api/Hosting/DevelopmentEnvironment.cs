using System.Security.Cryptography;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Development;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Hosting;

/// <summary>Defaults for settings that are missing in Development: an embedded database, and a key to sign tokens.</summary>
internal sealed class DevelopmentEnvironment : IAsyncDisposable
{
    private const string Issuer = "calcom-accounts-development";
    private const string Audience = "calcom-accounts";
    private const string Subject = "developer";
    private static readonly TimeSpan s_tokenLifetime = TimeSpan.FromHours(12);
    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(2);

    private readonly EmbeddedPostgres? _database;
    private readonly byte[]? _signingKey;

    private DevelopmentEnvironment(EmbeddedPostgres? database, byte[]? signingKey) => (_database, _signingKey) = (database, signingKey);

    // Started from source means Development where nobody says otherwise. launchSettings.json can't say so itself: what it
    // sets wins over the caller's own environment.
    public static string[] DefaultArguments(string[] args) =>
        IsStartedFromSource
        && Environment.GetEnvironmentVariable("ASPNETCORE_ENVIRONMENT") is null
        && Environment.GetEnvironmentVariable("DOTNET_ENVIRONMENT") is null
            ? ["--environment", Environments.Development, .. args]
            : args;

    /// <summary>Completes the configuration; null outside Development.</summary>
    /// <exception cref="StartupException">There is no PostgreSQL to be had.</exception>
    public static async Task<DevelopmentEnvironment?> PrepareAsync(WebApplicationBuilder builder)
    {
        if (!builder.Environment.IsDevelopment())
        {
            return null;
        }

        byte[]? signingKey = null;
        if (!builder.Configuration.GetSection(JwtAuthentication.Section).Exists())
        {
            signingKey = RandomNumberGenerator.GetBytes(32);
            builder.Configuration.AddInMemoryCollection(new Dictionary<string, string?>
            {
                [$"{JwtAuthentication.Section}:ValidIssuer"] = Issuer,
                [$"{JwtAuthentication.Section}:ValidAudience"] = Audience,
                [$"{JwtAuthentication.Section}:SigningKeys:0:Issuer"] = Issuer,
                [$"{JwtAuthentication.Section}:SigningKeys:0:Value"] = Convert.ToBase64String(signingKey),
            });
        }

        if (builder.Configuration.GetConnectionString(ConnectionStrings.Name) is not null)
        {
            return new(database: null, signingKey);
        }

        Console.WriteLine("Starting the service's own PostgreSQL:");
        var database = await EmbeddedPostgres.StartAsync(Report, CancellationToken.None);
        try
        {
            Report("schema and sample data");
            builder.Configuration.AddInMemoryCollection(new Dictionary<string, string?>
            {
                [ConnectionStrings.Key] = await SampleData.LoadAsync(database.ConnectionString, CancellationToken.None),
            });
            return new(database, signingKey);
        }
        catch
        {
            await database.DisposeAsync();
            throw;
        }
    }

    /// <summary>Prints on the console, not in the log, a curl command for each outcome.</summary>
    public async Task AnnounceAsync(WebApplication app)
    {
        var url = app.Urls.First().Replace("://[::]", "://localhost").Replace("://0.0.0.0", "://localhost")
            + app.Configuration[$"{CalcomAccountsOptions.Section}:{nameof(CalcomAccountsOptions.PathBase)}"];
        Console.WriteLine();
        if (_database is not null)
        {
            Console.WriteLine($"{_database.Description}; changes in it are lost when this stops. To connect: {_database.PsqlCommand}");
        }

        foreach (var (outcome, agentId) in await ListExamplesAsync(app.Services))
        {
            Console.WriteLine($"""

                # {outcome}
                curl -H 'Authorization: Bearer {Token()}' '{url}/api/v1/calcom/agents/{agentId}/account'
                """);
        }

        Console.WriteLine($"""

            OpenAPI page: {url}/swagger
            """);
    }

    public ValueTask DisposeAsync() => _database?.DisposeAsync() ?? ValueTask.CompletedTask;

    private static void Report(string step) => Console.WriteLine($"  {step} ...");

    private async Task<IEnumerable<(string Outcome, string AgentId)>> ListExamplesAsync(IServiceProvider services) =>
        _database is not null || await HasSampleDataAsync(services)
            ? SampleData.AgentIds.Select(agent => (agent.Key, agent.Value.ToString()))
            : [($"an agent of an organization that calcom.org_members has subject '{Subject}' in", "<agent_id>")];

    private static async Task<bool> HasSampleDataAsync(IServiceProvider services)
    {
        using var timeout = new CancellationTokenSource(s_timeout);
        try
        {
            var agents = await services.GetRequiredService<IAgentReader>().FindAsync(
                [.. SampleData.AgentIds.Values], Caller.OfSubject(Subject), timeout.Token);
            return !agents.Contains(null);
        }
        catch (Exception exception)
        {
            // The service starts all the same: the database may come, or be migrated, meanwhile.
            Console.WriteLine($"The database does not answer lookups: {DatabaseErrors.Describe(exception)}. 'check' says more.");
            return false;
        }
    }

    private string Token() => _signingKey is null ? "<token>" : new JsonWebTokenHandler().CreateToken(new SecurityTokenDescriptor
    {
        Issuer = Issuer,
        Audience = Audience,
        Expires = DateTime.UtcNow + s_tokenLifetime,
        Claims = new Dictionary<string, object> { ["sub"] = Subject },
        SigningCredentials = new(new SymmetricSecurityKey(_signingKey), SecurityAlgorithms.HmacSha256),
    });

    // As launchSettings.json says, which `dotnet run` and the IDEs follow.
    private static bool IsStartedFromSource => Environment.GetEnvironmentVariable("CALCOM_ACCOUNTS_FROM_SOURCE") is not null;
}
