using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using CalcomAccounts.Infrastructure.Development;
using Dapper;
using Npgsql;

namespace CalcomAccounts.Benchmarks;

/// <summary>An agent to ask for, and what the answer has to hold.</summary>
internal sealed record Sample(Guid AgentId, Guid OrgId, string Expected);

/// <summary>A private PostgreSQL full of agents of a hundred organizations: each third has a key, a linked account, neither.</summary>
internal sealed class BenchmarkDatabase : IAsyncDisposable
{
    private const int Organizations = 100;
    private const int SampleSize = 10_000;
    private readonly EmbeddedPostgres _server;

    private BenchmarkDatabase(EmbeddedPostgres server, string connectionString, IReadOnlyList<Sample> sample) =>
        (_server, ConnectionString, Sample) = (server, connectionString, sample);

    /// <summary>Connects as a login that is <c>calcom_reader</c> and nothing else.</summary>
    public string ConnectionString { get; }

    public string Description => _server.Description;

    /// <summary>Agents all over the table.</summary>
    public IReadOnlyList<Sample> Sample { get; }

    public static async Task<BenchmarkDatabase> StartAsync(int agents)
    {
        var server = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        var service = await SampleData.LoadAsync(server.ConnectionString, CancellationToken.None);
        await using var connection = new NpgsqlConnection(server.ConnectionString);
        await connection.ExecuteAsync(
            """
            set session_replication_role = replica; -- no foreign key look-ups while filling
            create function pg_temp.id(name text) returns uuid language sql immutable as
                $$ select encode(substring(sha256(convert_to(name, 'UTF8')) for 16), 'hex')::uuid $$;
            insert into calcom.org_accounts (id, org_id, account_name, api_key)
                select pg_temp.id('account' || n), pg_temp.id('org' || n), 'Front desk', 'not a key' from generate_series(0, @Organizations - 1) n;
            insert into calcom.agents (id, org_id, name, org_account_id)
                select pg_temp.id('agent' || n), pg_temp.id('org' || n % @Organizations), 'Agent ' || n,
                    case n % 3 when 2 then null else pg_temp.id('account' || n % @Organizations) end
                from generate_series(0, @agents - 1) n;
            insert into calcom.agent_keys (org_id, agent_id, account_name, api_key)
                select pg_temp.id('org' || n % @Organizations), pg_temp.id('agent' || n), 'Own ' || n, 'not a key' from generate_series(0, @agents - 1, 3) n;
            insert into calcom.org_members select pg_temp.id('org' || n), 'somebody' from generate_series(0, @Organizations - 1) n
            """,
            new { agents, Organizations },
            commandTimeout: 600);
        await connection.ExecuteAsync("vacuum analyze", commandTimeout: 600);

        var random = new Random(Seed: 1);
        var sample = Enumerable.Range(0, Math.Min(agents, SampleSize))
            .Select(i => agents <= SampleSize ? i : random.Next(agents))
            .OrderBy(_ => random.Next())
            .Select(n => new Sample(
                Id($"agent{n}"), Id($"org{n % Organizations}"), (n % 3) switch
                {
                    0 => $"\"account_name\":\"Own {n}\"",
                    1 => $"\"type\":\"org_linked\",\"calcom_account_id\":\"{Id($"account{n % Organizations}")}\"",
                    _ => """{"connected":false,"type":"none"}""",
                }));
        return new(server, service, [.. sample]);
    }

    /// <summary>What all of the server's processes have used, those that have ended included.</summary>
    public double CpuMicroseconds()
    {
        var postmaster = File.ReadLines(Path.Combine(new NpgsqlConnectionStringBuilder(ConnectionString).Host!, "postmaster.pid")).First();
        return Shell.CpuMicroseconds(int.Parse(postmaster, CultureInfo.InvariantCulture));
    }

    public async Task<long> CountSessionsAsync(string applicationName)
    {
        await using var connection = new NpgsqlConnection(_server.ConnectionString);
        return await connection.ExecuteScalarAsync<long>(
            "select count(*) from pg_stat_activity where application_name = @applicationName", new { applicationName });
    }

    public ValueTask DisposeAsync() => _server.DisposeAsync();

    // As pg_temp.id above: all over the table, and the same in every run.
    private static Guid Id(string name) => new(SHA256.HashData(Encoding.UTF8.GetBytes(name)).AsSpan(0, 16), bigEndian: true);
}
