using System.Net.Sockets;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using FluentValidation.AspNetCore;
using Microsoft.AspNetCore.Diagnostics.HealthChecks;
using Microsoft.AspNetCore.Mvc.ModelBinding;
using Microsoft.AspNetCore.Rewrite;

namespace CalcomAccounts.Api;

internal static class Program
{
    private const string Help = """
        Usage: CalcomAccounts.Api [command] [--setting=value …]

        Without a command it serves. In Development it does so without any setting, on a PostgreSQL of its own with sample data.

        Commands:
          migrate      brings the database to the current schema, as its owner
          check        says whether the database will serve well, as the service's login; --json for machines
          healthcheck  asks the service that runs here whether it is ready, or 'healthcheck live' whether it is live: for containers

        Settings, here or in the environment, where ':' is '__'. The README has them all:
          --urls=http://localhost:5001
          --ConnectionStrings:CalcomAccounts="Host=db;Database=platform;Username=calcom_service;Password=…"
          --Authentication:Schemes:Bearer:Authority=https://issuer.example
          --Authentication:Schemes:Bearer:ValidAudience=calcom-accounts

        A password is best kept out of arguments, which others can see.
        """;

    private static readonly HttpMethodMetadata s_readOnly = new([HttpMethods.Get, HttpMethods.Head]);

    public static async Task<int> Main(string[] args)
    {
        try
        {
            return await (args switch
            {
                _ when args.Any(arg => arg is "--help" or "-h" or "help") => PrintHelpAsync(),
                ["migrate", .. var options] => MigrateAsync(options),
                ["check", .. var options] => CheckAsync(options),
                ["healthcheck", .. var options] => HealthcheckAsync(options),
                [var word, ..] when !word.StartsWith('-') && !word.Contains('=') =>
                    throw new StartupException($"unknown command '{word}'; there are 'migrate', 'check' and 'healthcheck', and without a command it serves: see --help"),
                _ => ServeAsync(args),
            });
        }
        catch (StartupException exception)
        {
            await Console.Error.WriteLineAsync($"calcom-accounts: {exception.Message.ReplaceLineEndings(" ")}");
            return 1;
        }
    }

    /// <summary>The service on a configuration that is complete, not yet started.</summary>
    /// <exception cref="StartupException">The configuration lacks something, or makes no sense.</exception>
    internal static WebApplication Build(WebApplicationBuilder builder)
    {
        var lookupLimits = Limits.Set(builder);
        RequestLog.Configure(builder.Logging);

        // All it ever logs is the stack trace of a failed start; Main says why in one line.
        builder.Logging.AddFilter("Microsoft.Extensions.Hosting.Internal.Host", LogLevel.None);

        builder.Services.AddApplication();
        builder.Services.AddInfrastructure(
            builder.Configuration.GetConnectionString(ConnectionStrings.Name)
            ?? throw new StartupException($"not configured: {ConnectionStrings.Key}"),
            lookupLimits);
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
        builder.Services.AddHealthChecks().AddCheck<Readiness>("database");
        builder.Services.AddOpenApi();
        Draining.Add(builder.Services);
        Telemetry.Add(builder);

        var app = builder.Build();
        app.Services.CheckJwtAuthentication();

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
        app.MapHealthChecks("/health/live", new HealthCheckOptions { Predicate = _ => false }).WithMetadata(s_readOnly);
        app.MapHealthChecks("/health/ready").WithMetadata(s_readOnly);
        return app;
    }

    private static async Task<int> PrintHelpAsync()
    {
        await Console.Out.WriteLineAsync(Help);
        return 0;
    }

    private static async Task<int> ServeAsync(string[] args)
    {
        Console.SetOut(TextWriter.Synchronized(new PacedWriter(Console.OpenStandardOutput())));

        var builder = CreateBuilder(args);
        await using var development = await Development.PrepareAsync(builder);
        await using var app = Build(builder);
        try
        {
            await app.StartAsync();
        }
        catch (Exception exception) when (exception
            is IOException or SocketException or FormatException or InvalidOperationException or ArgumentException)
        {
            throw new StartupException($"can't listen: {exception.Message.TrimEnd('.')}; choose an address with --urls, as in --urls http://localhost:5001", exception);
        }

        if (development is not null)
        {
            await development.AnnounceAsync(app);
        }

        await app.WaitForShutdownAsync();
        return 0;
    }

    private static async Task<int> MigrateAsync(string[] options)
    {
        var connectionString = ReadConnectionString(options, "the database to migrate, as its owner");
        var applied = await DatabaseMigrator.MigrateAsync(connectionString, CancellationToken.None);
        Console.WriteLine(applied is [] ? "already at the current schema" : $"applied {string.Join(", ", applied)}");
        return 0;
    }

    private static async Task<int> CheckAsync(string[] options)
    {
        const string AsJson = "--json";
        var connectionString = ReadConnectionString([.. options.Where(option => option is not AsJson)], "the database to check, as the service's login");
        var report = await DatabaseCheck.RunAsync(connectionString, CancellationToken.None);
        Console.WriteLine(options.Contains(AsJson) ? CheckReport.ToJson(report) : CheckReport.ToText(report));
        return report.Ok ? 0 : 1;
    }

    private static async Task<int> HealthcheckAsync(string[] options)
    {
        const string Live = "live";
        await Healthcheck.RunAsync(
            CreateBuilder([.. options.Where(option => option is not Live)]).Configuration, options.Contains(Live) ? Live : "ready");
        return 0;
    }

    private static string ReadConnectionString(string[] options, string meaning) =>
        CreateBuilder(options).Configuration.GetConnectionString(ConnectionStrings.Name)
        ?? throw new StartupException($"not configured: {ConnectionStrings.Key}, {meaning}");

    /// <summary>The configuration: files beside the program, then the environment, then the arguments.</summary>
    internal static WebApplicationBuilder CreateBuilder(string[] args) => WebApplication.CreateBuilder(new WebApplicationOptions
    {
        Args = Development.DefaultArguments(args),
        ApplicationName = typeof(Program).Assembly.GetName().Name,
        ContentRootPath = AppContext.BaseDirectory,
    });

    private static Task SetHeaders(object state)
    {
        var headers = ((HttpResponse)state).Headers;
        headers.CacheControl = "no-store";
        headers.XContentTypeOptions = "nosniff";

        // What the exception handler adds for HTTP/1.0 caches.
        headers.Remove("Pragma");
        headers.Remove("Expires");
        return Task.CompletedTask;
    }
}
