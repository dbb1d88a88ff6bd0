using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure.Agents;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;

namespace CalcomAccounts.Infrastructure;

/// <summary>Registers what reads PostgreSQL.</summary>
public static class InfrastructureServices
{
    /// <summary>The source of the spans of round trips to the database, each of which serves the requests that it is linked to.</summary>
    public const string ActivitySourceName = "CalcomAccounts";

    /// <summary>Adds the connection pool for <paramref name="connectionString"/> and the readers on it. Nothing connects yet.</summary>
    /// <param name="services">Where to.</param>
    /// <param name="connectionString">What it says wins over the service's own defaults.</param>
    /// <param name="limits">What the defaults stay within.</param>
    /// <exception cref="StartupException"><paramref name="connectionString"/> is not a connection string, or one that can't be used.</exception>
    public static IServiceCollection AddInfrastructure(this IServiceCollection services, string connectionString, LookupLimits limits)
    {
        DefaultTypeMap.MatchNamesWithUnderscores = true;
        var servers = ConnectionStrings.Parse(connectionString, defaults: "").Host!.Split(',').Length;
        var server = ConnectionStrings.Parse(connectionString, ConnectionStrings.ServiceDefaults(limits, servers));

        // Of a server that is frozen, Npgsql blocks a thread for each session while it cancels its command, and another where the
        // request is given up as well. Beyond this number new threads come too slowly for anybody else to be answered in time.
        ThreadPool.GetMinThreads(out var workers, out var completionPorts);
        ThreadPool.SetMinThreads(Math.Max(workers, (2 * server.MaxPoolSize) + Environment.ProcessorCount), completionPorts);

        services.AddNpgsqlDataSource(server.ConnectionString, pool =>
        {
            // A label of Npgsql's metrics, which would be the connection string otherwise.
            pool.Name = "calcom-accounts";

            // Its own log has the database's messages and notices, which may quote rows.
            pool.UseLoggerFactory(NullLoggerFactory.Instance);
        });
        services.AddSingleton(limits);
        services.AddSingleton<AgentReader>();
        services.AddSingleton<IAgentReader, BatchingAgentReader>();
        services.AddSingleton<LoginPrivileges>();
        services.AddSingleton<ServerVersion>();
        return services;
    }
}

/// <summary>What looking an agent up may take.</summary>
/// <param name="RequestTimeout">Within which a request is answered.</param>
/// <param name="MaxConcurrentStatements">How many statements may be in flight at once; lookups that arrive meanwhile share the next.</param>
/// <param name="MaxQueuedLookups">How many lookups may wait for that; the next one fails at once.</param>
public sealed record LookupLimits(TimeSpan RequestTimeout, int MaxConcurrentStatements, int MaxQueuedLookups);
