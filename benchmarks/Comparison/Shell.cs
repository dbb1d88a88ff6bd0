using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace CalcomAccounts.Benchmarks;

/// <summary>Programs and ports.</summary>
internal static class Shell
{
    // This program runs from benchmarks/Comparison/bin/<configuration>/<framework>.
    private static readonly string s_repository = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../../.."));

    private const double MicrosecondsPerTick = 1e6 / 100;

    /// <returns>What the command printed, run from the repository's top.</returns>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    public static async Task<string> CommandAsync(string program, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, WorkingDirectory = s_repository })!;
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        return process.ExitCode == 0 ? output : throw new InvalidOperationException($"{program} failed: {output}");
    }

    /// <summary>What a process and its children have used, those that have ended included.</summary>
    public static double CpuMicroseconds(int processId) => Family(processId)
        .Sum(process => process.Field(11) + process.Field(12) + (process.Id == processId ? process.Field(13) + process.Field(14) : 0)) * MicrosecondsPerTick;

    /// <summary>What a process and its children have in memory; what they share counts for each.</summary>
    public static double ResidentMiB(int processId) => Family(processId).Sum(process => process.Field(21)) * Environment.SystemPageSize / (double)(1 << 20);

    private static IEnumerable<(int Id, Func<int, long> Field)> Family(int processId)
    {
        foreach (var id in Directory.EnumerateDirectories("/proc").Select(Path.GetFileName).Where(name => char.IsAsciiDigit(name![0])))
        {
            string stat;
            try
            {
                stat = File.ReadAllText($"/proc/{id}/stat");
            }
            catch (IOException)
            {
                continue; // It has ended meanwhile, and counts with its parent's children.
            }

            // After the name: state, parent, … utime, stime, cutime, cstime, … resident pages (proc(5), from the third field on).
            var fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            var number = int.Parse(id!, CultureInfo.InvariantCulture);
            if (number == processId || fields[1] == $"{processId}")
            {
                yield return (number, field => long.Parse(fields[field], CultureInfo.InvariantCulture));
            }
        }
    }

    public static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }
}
