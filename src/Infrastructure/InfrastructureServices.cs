using CalcomAccounts.Application;
using Dapper;
using Microsoft.Extensions.DependencyInjection;

namespace CalcomAccounts.Infrastructure;

/// <summary>Registers what reads PostgreSQL.</summary>
public static class InfrastructureServices
{
    /// <summary>Adds the connection pool for <paramref name="connectionString"/> and the readers on it. Nothing connects yet.</summary>
    /// <param name="services">Where to.</param>
    /// <param name="connectionString">What it says wins over the service's own defaults.</param>
    /// <param name="answerTimeout">What a request may take, which the defaults stay within.</param>
    /// <exception cref="StartupException"><paramref name="connectionString"/> is not a connection string.</exception>
    public static IServiceCollection AddInfrastructure(this IServiceCollection services, string connectionString, TimeSpan answerTimeout)
    {
        DefaultTypeMap.MatchNamesWithUnderscores = true;
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.ServiceDefaults(answerTimeout));

        // Of a server that is frozen, Npgsql blocks a thread for each session while it cancels its command, and another where the
        // request is given up as well. Beyond this number new threads come too slowly for anybody else to be answered in time.
        ThreadPool.GetMinThreads(out var workers, out var completionPorts);
        ThreadPool.SetMinThreads(Math.Max(workers, (2 * server.MaxPoolSize) + Environment.ProcessorCount), completionPorts);

        services.AddNpgsqlDataSource(server.ConnectionString);
        services.AddSingleton<IAgentReader, AgentReader>();
        services.AddSingleton<LoginPrivileges>();
        return services;
    }
}
