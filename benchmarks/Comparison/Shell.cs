using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace CalcomAccounts.Benchmarks;

/// <summary>Programs and ports.</summary>
internal static class Shell
{
    // This program runs from benchmarks/Comparison/bin/<configuration>/<framework>.
    private static readonly string s_repository = Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../../.."));

    /// <returns>What the command printed, run from the repository's top.</returns>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    public static async Task<string> CommandAsync(string program, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, WorkingDirectory = s_repository })!;
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        return process.ExitCode == 0 ? output : throw new InvalidOperationException($"{program} failed: {output}");
    }

    public static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }
}
