using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;

namespace CalcomAccounts.Infrastructure;

/// <summary>Registers the access to PostgreSQL in the container.</summary>
public static class InfrastructureServices
{
    /// <summary>The source of the spans of database round trips; each span links to the requests that share it.</summary>
    public const string ActivitySourceName = "CalcomAccounts";

    /// <summary>Adds the connection pool for <paramref name="connectionString"/> and the readers on it. It does not connect yet.</summary>
    /// <param name="services">Where to add them.</param>
    /// <param name="connectionString">Its settings override the service's own defaults.</param>
    /// <param name="options">Determine the defaults for pool size and timeouts.</param>
    /// <exception cref="StartupException"><paramref name="connectionString"/> is not valid.</exception>
    public static IServiceCollection AddInfrastructure(this IServiceCollection services, string connectionString, LookupOptions options)
    {
        DefaultTypeMap.MatchNamesWithUnderscores = true;
        var servers = ConnectionStrings.Hosts(ConnectionStrings.Parse(connectionString, defaults: "")).Length;
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.ServiceDefaults(options, servers));

        // When a server is frozen, Npgsql blocks up to two threads for each session while it cancels commands. The thread pool adds
        // threads beyond its minimum too slowly for other requests to be answered in time.
        ThreadPool.GetMinThreads(out var workers, out var completionPorts);
        ThreadPool.SetMinThreads(Math.Max(workers, (2 * server.MaxPoolSize) + Environment.ProcessorCount), completionPorts);

        services.AddNpgsqlDataSource(server.ConnectionString, pool =>
        {
            // A label of Npgsql's metrics; by default it would be the connection string.
            pool.Name = "calcom-accounts";

            // Npgsql logs the database's messages and notices, which may quote rows.
            pool.UseLoggerFactory(NullLoggerFactory.Instance);
        });
        services.AddSingleton(options);
        services.AddSingleton(provider => new AgentReader(provider.GetRequiredService<NpgsqlDataSource>(), options.IsDistributed));
        services.AddSingleton<IAgentReader, BatchingAgentReader>();
        services.AddSingleton<LoginPrivileges>();
        services.AddSingleton<ServerVersion>();
        return services;
    }
}
