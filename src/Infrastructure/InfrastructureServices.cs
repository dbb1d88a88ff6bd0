using CalcomAccounts.Application;
using Dapper;
using Microsoft.Extensions.DependencyInjection;

namespace CalcomAccounts.Infrastructure;

/// <summary>Registers what reads PostgreSQL.</summary>
public static class InfrastructureServices
{
    /// <summary>Adds the connection pool for <paramref name="connectionString"/> and the reader on it. Nothing connects yet.</summary>
    /// <exception cref="StartupException"><paramref name="connectionString"/> is not a connection string.</exception>
    public static IServiceCollection AddInfrastructure(this IServiceCollection services, string connectionString)
    {
        DefaultTypeMap.MatchNamesWithUnderscores = true;
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.ServiceDefaults);
        services.AddNpgsqlDataSource(server.ConnectionString);
        services.AddSingleton<IAgentReader, AgentReader>();
        return services;
    }
}
