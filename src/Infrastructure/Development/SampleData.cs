using System.Security.Cryptography;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Development;

/// <summary>What <c>sample_data.sql</c> puts into a development database.</summary>
public static class SampleData
{
    /// <summary>The one organization.</summary>
    public static Guid OrgId { get; } = new("b0000000-0000-4000-8000-000000000001");

    /// <summary>An agent for each outcome, by the <c>type</c> that the service answers for it.</summary>
    public static IReadOnlyDictionary<string, Guid> AgentIds { get; } = new Dictionary<string, Guid>
    {
        ["agent"] = new("a0000000-0000-4000-8000-000000000001"),
        ["org_linked"] = new("a0000000-0000-4000-8000-000000000002"),
        ["none"] = new("a0000000-0000-4000-8000-000000000003"),
    };

    /// <summary>
    /// Migrates the new database that a superuser's connection string names, loads the sample, and returns the
    /// connection string of a login that is <c>calcom_reader</c> and nothing else.
    /// </summary>
    /// <exception cref="StartupException">The server is out of reach, or refused a step.</exception>
    public static async Task<string> LoadAsync(string ownerConnectionString, CancellationToken cancellationToken)
    {
        await DatabaseMigrator.MigrateAsync(ownerConnectionString, cancellationToken);

        var assembly = typeof(SampleData).Assembly;
        using var script = new StreamReader(assembly.GetManifestResourceStream("sample_data.sql")!);
        var password = RandomNumberGenerator.GetHexString(32);
        await using var connection = new NpgsqlConnection(ownerConnectionString);
        try
        {
            await connection.ExecuteAsync(new CommandDefinition(
                $"""
                {await script.ReadToEndAsync(cancellationToken)}
                create role calcom_service login password '{password}' in role calcom_reader;
                """,
                cancellationToken: cancellationToken));
        }
        catch (NpgsqlException exception)
        {
            throw new StartupException($"could not load the sample data: {ConnectionStrings.Explain(exception)}");
        }

        return new NpgsqlConnectionStringBuilder(ownerConnectionString) { Username = "calcom_service", Password = password }.ConnectionString;
    }
}
