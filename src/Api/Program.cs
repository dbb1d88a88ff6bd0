using System.Reflection;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using FluentValidation.AspNetCore;
using Microsoft.AspNetCore.Diagnostics.HealthChecks;
using Microsoft.AspNetCore.Mvc.ModelBinding;
using Microsoft.AspNetCore.Rewrite;

namespace CalcomAccounts.Api;

internal static class Program
{
    private static readonly Command[] s_commands =
    [
        new("migrate", Option: null, "brings the database to the current schema, as its owner", MigrateAsync),
        new("check", Option: "--json", "says whether the database will serve well, as the service's login; --json for machines", CheckAsync),
        new("healthcheck", Option: "live", "asks the service that runs here whether it is ready, or 'healthcheck live' whether it is live: for containers", HealthcheckAsync),
    ];

    private static readonly HttpMethodMetadata s_readOnly = new([HttpMethods.Get, HttpMethods.Head]);

    public static async Task<int> Main(string[] args)
    {
        try
        {
            if (args.Any(arg => arg is "--help" or "-h" or "help"))
            {
                await Console.Out.WriteLineAsync(Help);
                return 0;
            }

            if (args is ["--version"])
            {
                await Console.Out.WriteLineAsync(Version);
                return 0;
            }

            var (command, option, settings) = CommandLine.Parse(args, s_commands);
            return await (command is null ? ServeAsync(settings) : command.RunAsync(option, CreateBuilder(settings).Configuration));
        }
        catch (StartupException exception)
        {
            await Console.Error.WriteLineAsync($"calcom-accounts: {exception.Message.ReplaceLineEndings(" ")}");
            return 1;
        }
    }

    /// <summary>As CHANGELOG.md has it, and the commit where it was built from a repository.</summary>
    internal static string Version { get; } =
        typeof(Program).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion;

    /// <summary>The service on a configuration that is complete, not yet started.</summary>
    /// <exception cref="StartupException">The configuration lacks something, or makes no sense.</exception>
    internal static WebApplication Build(WebApplicationBuilder builder)
    {
        var connectionString = builder.Configuration.GetConnectionString(ConnectionStrings.Name);
        var missing = Authentication.FindMissing(builder.Configuration);
        if (connectionString is null || missing.Any())
        {
            throw NotConfigured(string.Join(", ", connectionString is null ? missing.Prepend(ConnectionStrings.Key) : missing));
        }

        var lookupLimits = Limits.Set(builder);
        RequestLog.Configure(builder.Logging);

        // All it ever logs is the stack trace of a failed start; Main says why in one line.
        builder.Logging.AddFilter("Microsoft.Extensions.Hosting.Internal.Host", LogLevel.None);

        builder.Services.AddApplication();
        builder.Services.AddInfrastructure(connectionString, lookupLimits);
        builder.Services.AddJwtAuthentication(builder.Configuration);
        builder.Services.AddErrorHandling();
        builder.Services.AddControllers(mvc =>
        {
            // Queries are bound by binders of their own, and judged by their validators alone.
            mvc.ValueProviderFactories.Clear();
            mvc.ModelMetadataDetailsProviders.Add(new SuppressChildValidationMetadataProvider(typeof(GetAgentAccount)));
            mvc.ModelMetadataDetailsProviders.Add(new SuppressChildValidationMetadataProvider(typeof(GetAgentAccounts)));
        });
        builder.Services.AddFluentValidationAutoValidation(validation => validation.DisableDataAnnotationsValidation = true);
        builder.Services.AddSingleton<Readiness>();
        builder.Services.AddHealthChecks().AddCheck<Readiness>("database");
        builder.Services.AddOpenApi();
        Draining.Add(builder.Services);
        Telemetry.Add(builder);

        var app = BuildHost(builder);
        app.Services.CheckJwtAuthentication();

        app.Use(ConnectionShare.InvokeAsync);
        app.UseMiddleware<RequestLog>();
        app.Use(app.Services.GetRequiredService<Draining>().InvokeAsync);
        app.Use((context, next) =>
        {
            context.Response.OnStarting(SetHeaders, context.Response);
            return next(context);
        });
        app.UseErrorHandling();
        app.UseOpenApiPage();

        // No route matches an empty segment; a blank one reaches the validator, as any other agent_id that is no UUID.
        app.UseWhen(context => context.Request.Path.Value!.Contains("//", StringComparison.Ordinal), empty => empty.UseRewriter(
            new RewriteOptions().AddRewrite("(?i)^(api/v1/calcom/agents/)(/account(?:/explain)?/?)$", "$1%20$2", skipRemainingRules: true)));
        app.UseRouting();
        app.UseRequestTimeouts();
        app.UseAuthentication();
        app.UseAuthorization();
        app.MapControllers().RequireAuthorization();

        // They have a bound of their own.
        app.MapHealthChecks("/health/live", new HealthCheckOptions { Predicate = _ => false }).WithMetadata(s_readOnly).DisableRequestTimeout();
        app.MapHealthChecks("/health/ready").WithMetadata(s_readOnly).DisableRequestTimeout();
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

    private static string Help => $"""
        Usage: CalcomAccounts.Api [command] [--setting=value …]

        Without a command it serves. In Development it does so without any setting, on a PostgreSQL of its own with sample data.

        Commands:
        {string.Join('\n', s_commands.Select(command => $"  {command.Name,-11}  {command.Does}"))}

        Settings, here or in the environment, where ':' is '__'. The README has them all:
          --urls=http://localhost:5001
          --ConnectionStrings:CalcomAccounts="Host=db;Database=platform;Username=calcom_service;Password=…"
          --Authentication:Schemes:Bearer:Authority=https://issuer.example
          --Authentication:Schemes:Bearer:ValidAudience=calcom-accounts

        A password is best kept out of arguments, which others can see.
        """;

    private static async Task<int> ServeAsync(string[] settings)
    {
        var builder = CreateBuilder(settings);
        await using var development = await Development.PrepareAsync(builder);
        await using var app = Build(builder);
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
        return 0;
    }

    private static async Task<int> MigrateAsync(string? option, IConfiguration configuration)
    {
        var connectionString = ReadConnectionString(configuration, "the database to migrate, as its owner");
        var applied = await DatabaseMigrator.MigrateAsync(connectionString, CancellationToken.None);
        Console.WriteLine(applied is [] ? "already at the current schema" : $"applied {string.Join(", ", applied)}");
        return 0;
    }

    private static async Task<int> CheckAsync(string? asJson, IConfiguration configuration)
    {
        var connectionString = ReadConnectionString(configuration, "the database to check, as the service's login");
        var report = await DatabaseCheck.RunAsync(connectionString, CancellationToken.None);
        Console.WriteLine(asJson is null ? CheckReport.ToText(report) : CheckReport.ToJson(report));
        return report.Ok ? 0 : 1;
    }

    private static async Task<int> HealthcheckAsync(string? state, IConfiguration configuration)
    {
        await Healthcheck.RunAsync(configuration, state ?? "ready");
        return 0;
    }

    private static string ReadConnectionString(IConfiguration configuration, string meaning) =>
        configuration.GetConnectionString(ConnectionStrings.Name)
        ?? throw NotConfigured($"{ConnectionStrings.Key}, {meaning}");

    private static StartupException NotConfigured(string missing) => new($"not configured: {missing}; see --help");

    /// <summary>The configuration: files beside the program, then the environment, then the arguments.</summary>
    /// <exception cref="StartupException">A file is malformed, or a setting of the host's makes no sense.</exception>
    internal static WebApplicationBuilder CreateBuilder(string[] settings)
    {
        try
        {
            var builder = WebApplication.CreateBuilder(new WebApplicationOptions
            {
                Args = Development.DefaultArguments(settings),
                ApplicationName = typeof(Program).Assembly.GetName().Name,
                ContentRootPath = AppContext.BaseDirectory,
            });
            ConsoleLog.Use(builder.Logging);
            return builder;
        }
        catch (Exception exception) when (exception is not StartupException)
        {
            var cause = exception.GetBaseException();
            throw new StartupException(
                $"the configuration is not valid: {exception.Message}{(cause == exception ? "" : $" {cause.Message}")}", exception);
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

    private static Task SetHeaders(object state)
    {
        var headers = ((HttpResponse)state).Headers;
        if (headers.CacheControl != OpenApi.AssetCacheControl)
        {
            headers.CacheControl = "no-store";
        }

        headers.XContentTypeOptions = "nosniff";

        // What the exception handler adds for HTTP/1.0 caches.
        headers.Remove("Pragma");
        headers.Remove("Expires");
        return Task.CompletedTask;
    }
}
