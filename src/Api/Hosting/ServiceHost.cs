using System.Reflection;
using CalcomAccounts.Api.Agents;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Api.Http;
using CalcomAccounts.Api.Observability;
using CalcomAccounts.Api.OpenApi;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Database;

namespace CalcomAccounts.Api.Hosting;

/// <summary>The HTTP server: its configuration, its services, and its pipeline in their order.</summary>
internal static class ServiceHost
{
    /// <summary>As CHANGELOG.md has it, and the commit where it was built from a repository.</summary>
    internal static string Version { get; } =
        typeof(ServiceHost).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion;

    /// <summary>Serves until it is told to stop.</summary>
    /// <exception cref="StartupException">It can't start.</exception>
    public static async Task RunAsync(string[] settings)
    {
        var builder = CreateBuilder(settings);
        await using var development = await DevelopmentEnvironment.PrepareAsync(builder);
        await using var app = Build(builder);
        await app.Services.GetRequiredService<ServerVersion>().CheckAtStartAsync();
        try
        {
            await app.StartAsync();
        }
        catch (Exception exception) when (exception is not StartupException)
        {
            var sections = builder.Configuration.GetSection("Kestrel").GetChildren().Select(section => section.Path).Where(path => path != Limits.Section);
            throw new StartupException(
                $"can't listen: {Explain(exception, builder.Configuration)}; "
                + (sections.Any() ? $"see {string.Join(" and ", sections)}" : "choose an address with --urls, as in --urls http://localhost:5001"),
                exception);
        }

        if (development is not null)
        {
            await development.AnnounceAsync(app);
        }

        await app.WaitForShutdownAsync();
    }

    /// <summary>The configuration: files beside the program, then the environment, then the arguments.</summary>
    /// <exception cref="StartupException">A file is malformed, or a setting of the host's makes no sense.</exception>
    internal static WebApplicationBuilder CreateBuilder(string[] settings)
    {
        try
        {
            var builder = WebApplication.CreateBuilder(new WebApplicationOptions
            {
                Args = DevelopmentEnvironment.DefaultArguments(settings),
                ApplicationName = typeof(ServiceHost).Assembly.GetName().Name,
                ContentRootPath = AppContext.BaseDirectory,
            });
            builder.Logging.UseConsoleLog();
            return builder;
        }
        catch (Exception exception) when (exception is not StartupException)
        {
            var cause = exception.GetBaseException();
            throw new StartupException(
                $"the configuration is not valid: {exception.Message}{(cause == exception ? "" : $" {cause.Message}")}", exception);
        }
    }

    /// <summary>The service on a configuration that is complete, not yet started.</summary>
    /// <exception cref="StartupException">The configuration lacks something, or makes no sense.</exception>
    internal static WebApplication Build(WebApplicationBuilder builder)
    {
        var connectionString = builder.Configuration.GetConnectionString(ConnectionStrings.Name);
        var missing = TrustedIssuer.FindMissing(builder.Configuration);
        if (connectionString is null || missing.Any())
        {
            throw NotConfigured(string.Join(", ", connectionString is null ? missing.Prepend(ConnectionStrings.Key) : missing));
        }

        var options = CalcomAccountsOptions.Read(builder.Configuration);
        var lookupOptions = builder.AddLimits(options);

        // All it ever logs is the stack trace of a failed start; Main says why in one line.
        builder.Logging.AddFilter("Microsoft.Extensions.Hosting.Internal.Host", LogLevel.None);

        builder.Services.AddApplication();
        builder.Services.AddInfrastructure(connectionString, lookupOptions);
        builder.Services.AddJwtAuthentication(builder.Configuration, options);
        builder.Services.AddRequestLogging();
        builder.Services.AddErrorHandling();
        builder.Services.AddCrossOriginRequests(options);
        builder.Services.AddGateway(options);
        builder.Services.AddAgents();
        builder.Services.AddHealth();
        builder.Services.AddOpenApi();
        builder.Services.AddGracefulShutdown();
        builder.AddTelemetry(options);

        var app = BuildHost(builder);
        app.Services.CheckJwtAuthentication();

        app.UseConnectionShare();
        app.UseRequestLogging();
        app.UseGracefulShutdown();
        app.UseResponseHeaders();
        app.UseErrorHandling();
        app.UseCrossOriginRequests(options);
        app.UseGateway(options);
        app.UseOpenApiPage();
        app.UseEmptyAgentId();
        app.UseRouting();
        app.UseRequestTimeouts();
        app.UseAuthentication();
        app.UseAuthorization();
        app.MapControllers().RequireAuthorization();
        app.MapHealth();
        return app;
    }

    private static WebApplication BuildHost(WebApplicationBuilder builder)
    {
        try
        {
            return builder.Build();
        }
        catch (Exception exception) when (exception is not StartupException)
        {
            throw new StartupException($"the configuration is not valid: {Explain(exception, builder.Configuration)}", exception);
        }
    }

    /// <summary>What ASP.NET Core refuses, with the key in place of a value that it quotes.</summary>
    internal static string Explain(Exception exception, IConfiguration configuration)
    {
        var message = exception is TargetInvocationException { InnerException: { } cause } ? cause.Message : exception.Message;
        return configuration.AsEnumerable()
            .Where(setting => setting.Key.Contains(':') && setting.Value is { Length: > 0 })
            .Aggregate(message, (text, setting) => text.Replace($"'{setting.Value}'", setting.Key, StringComparison.Ordinal))
            .TrimEnd('.');
    }

    /// <summary>Says which settings are missing.</summary>
    internal static StartupException NotConfigured(string missing) => new($"not configured: {missing}; see --help");
}
