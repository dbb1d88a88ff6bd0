using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Diagnostics;

namespace CalcomAccounts.Api.Cli;

/// <summary>What the program does besides running the HTTP server.</summary>
internal static class Commands
{
    /// <summary>All of them, in the order of <c>--help</c>.</summary>
    public static IReadOnlyList<Command> All { get; } =
    [
        new("migrate", Option: null, "brings the database to the current schema, as its owner", MigrateAsync),
        new("check", Option: "--json", "checks whether the database has everything that the service needs, as the service's login; --json for programs", CheckAsync),
        new("healthcheck", Option: "live", "asks the service that runs here whether it is ready, or 'healthcheck live' whether it is live: for containers", HealthcheckAsync),
    ];

    /// <summary>What <c>--help</c> prints.</summary>
    public static string Help => $"""
        Usage: CalcomAccounts.Api [command] [--setting=value …]

        Without a command it runs the HTTP server. In Development it needs no setting: PostgreSQL and sample data are its own.

        Commands:
        {string.Join('\n', All.Select(command => $"  {command.Name,-11}  {command.Does}"))}

        Settings, here or in the environment, where ':' is '__'. docs/configuration.md has them all:
          --urls=http://localhost:5001
          --ConnectionStrings:CalcomAccounts="Host=db;Database=platform;Username=calcom_service;Password=…"
          --Authentication:Schemes:Bearer:Authority=https://issuer.example
          --Authentication:Schemes:Bearer:ValidAudience=calcom-accounts

        A password is best kept out of arguments, which others can see.
        """;

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
        var report = await DatabaseCheck.RunAsync(connectionString, CalcomAccountsOptions.Read(configuration).Distributed, CancellationToken.None);
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
        ?? throw ServiceHost.NotConfigured($"{ConnectionStrings.Key}, {meaning}");
}
