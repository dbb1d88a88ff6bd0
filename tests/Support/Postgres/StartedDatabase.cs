using System.Globalization;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>The embedded database of a service, as its output describes it: a server on a socket, or a container.</summary>
internal sealed class StartedDatabase
{
    private readonly string? _data;
    private readonly int? _postmaster;
    private readonly string? _container;

    public StartedDatabase(string psqlLine)
    {
        if (psqlLine.Contains("docker exec", StringComparison.Ordinal))
        {
            _container = psqlLine.Split("--tty ")[1].Split(' ')[0];
            return;
        }

        _data = psqlLine.Split("host=")[1].Split(' ')[0];
        _postmaster = int.Parse(File.ReadLines($"{_data}/postmaster.pid").First(), CultureInfo.InvariantCulture);
    }

    public bool IsGone => _postmaster is { } postmaster
        ? ServiceProcess.HasEnded(postmaster) && !Directory.Exists(_data)
        : Shell.RunAsync($"docker ps --all --quiet --filter name={_container}").Result is "";
}
