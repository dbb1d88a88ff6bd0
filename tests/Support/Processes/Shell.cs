using System.Diagnostics;

namespace CalcomAccounts.Tests.Support.Processes;

internal static class Shell
{
    /// <returns>The standard output of the command line.</returns>
    public static async Task<string> RunAsync(string commandLine)
    {
        using var shell = Process.Start(
            new ProcessStartInfo("sh", ["-c", commandLine]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        var output = shell.StandardOutput.ReadToEndAsync();
        await shell.StandardError.ReadToEndAsync();
        return await output;
    }
}
