using System.Security.Cryptography;
using CalcomAccounts.Infrastructure.Database;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Development;

/// <summary>The data of <c>sample_data.sql</c>, for development.</summary>
public static class SampleData
{
    /// <summary>The organization of all sample agents.</summary>
    public static Guid OrgId { get; } = new("b0000000-0000-4000-8000-000000000001");

    /// <summary>One agent for each <c>type</c> of a response, by that type.</summary>
    public static IReadOnlyDictionary<string, Guid> AgentIds { get; } = new Dictionary<string, Guid>
    {
        ["agent"] = new("a0000000-0000-4000-8000-000000000001"),
        ["org_linked"] = new("a0000000-0000-4000-8000-000000000002"),
        ["none"] = new("a0000000-0000-4000-8000-000000000003"),
    };

    /// <summary>
    /// Migrates an empty database, as a superuser, and loads the sample data. Returns the connection string of a new login that has the
    /// role <c>calcom_reader</c> and no other.
    /// </summary>
    /// <exception cref="StartupException">The server can't be reached, or reported an error.</exception>
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
            throw new StartupException($"could not load the sample data: {DatabaseErrors.Describe(exception)}");
        }

        return new NpgsqlConnectionStringBuilder(ownerConnectionString) { Username = "calcom_service", Password = password }.ConnectionString;
    }
}
