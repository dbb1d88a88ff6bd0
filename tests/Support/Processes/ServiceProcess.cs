using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;

namespace CalcomAccounts.Tests.Support.Processes;

/// <summary>The program as a process, with arguments, an environment, output and an exit code.</summary>
internal sealed class ServiceProcess : IDisposable
{
    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(30);

    private readonly Process _process;
    private readonly ConcurrentQueue<string> _output = [];
    private readonly ConcurrentQueue<string> _errors = [];

    private string? _folder;

    private ServiceProcess(string[] command, Dictionary<string, string> environment)
    {
        // A background job of a shell and its children ignore Ctrl-C unless the default is restored.
        var start = new ProcessStartInfo("env", ["--default-signal=INT", .. command])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = Path.GetTempPath(),
        };

        // Telemetry that can't be sent would delay the end of `dotnet run`.
        start.Environment["DOTNET_CLI_TELEMETRY_OPTOUT"] = "1";
        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        _process = Process.Start(start)!;
        _process.OutputDataReceived += (_, line) => _output.Enqueue(line.Data ?? "");
        _process.ErrorDataReceived += (_, line) => _errors.Enqueue(line.Data ?? "");
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    public int Id => _process.Id;

    public long ResidentBytes
    {
        get
        {
            _process.Refresh();
            return _process.WorkingSet64;
        }
    }

    public string Output => string.Join('\n', _output).TrimEnd();

    public string Errors => string.Join('\n', _errors).TrimEnd();

    /// <summary>Starts the built program, in Production unless the environment says otherwise.</summary>
    public static ServiceProcess Start(string[] arguments, Dictionary<string, string>? environment = null) =>
        new(["dotnet", Path.Combine(AppContext.BaseDirectory, "CalcomAccounts.Api.dll"), .. arguments], environment ?? []);

    /// <summary>Starts the built program with its standard output redirected by the shell; <see cref="Output"/> stays empty.</summary>
    public static ServiceProcess StartRedirected(string redirection, string[] arguments, Dictionary<string, string> environment) => new(
        ["bash", "-c", $"exec \"$@\" {redirection}", "bash", "dotnet", Path.Combine(AppContext.BaseDirectory, "CalcomAccounts.Api.dll"), .. arguments],
        environment);

    /// <summary>Starts the built program as the user of the image, if this process runs as root.</summary>
    public static ServiceProcess StartUnprivileged(string[] arguments, Dictionary<string, string> environment)
    {
        if (!Environment.IsPrivilegedProcess)
        {
            return Start(arguments, environment);
        }

        // Other users may have no access to the folder of the build, or to root's TMPDIR.
        var folder = $"/tmp/calcom-accounts-test-{Guid.NewGuid():N}";
        using (var copy = Process.Start("sh", ["-c", $"cp -r '{AppContext.BaseDirectory}' {folder} && chmod -R a+rX {folder}"]))
        {
            copy.WaitForExit();
        }

        string[] asUser = ["setpriv", "--reuid", "1654", "--regid", "1654", "--clear-groups", "--"];
        return new([.. asUser, "dotnet", $"{folder}/CalcomAccounts.Api.dll", .. arguments], environment) { _folder = folder };
    }

    /// <summary>Runs the first command of the README on the sources of these tests.</summary>
    public static ServiceProcess DotnetRun(string[] arguments, Dictionary<string, string>? environment = null) =>
        new(["dotnet", "run", "--no-build", "--configuration", Configuration, "--project", Path.Combine(Repository, "src", "Api"), "--", .. arguments], environment ?? []);

    public async Task<int> WaitForExitAsync()
    {
        using var timeout = new CancellationTokenSource(s_timeout);
        await _process.WaitForExitAsync(timeout.Token);
        return _process.ExitCode;
    }

    /// <summary>The first line of the output that holds this text.</summary>
    public async Task<string> WaitForLineAsync(string text)
    {
        for (var started = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(started) < s_timeout; await Task.Delay(50))
        {
            if (_output.FirstOrDefault(line => line.Contains(text, StringComparison.Ordinal)) is { } line)
            {
                return line;
            }
        }

        throw new TimeoutException($"No '{text}' in:\n{Output}\n{Errors}");
    }

    /// <summary>Waits until the service listens, and returns the address.</summary>
    public async Task<string> WaitForUrlAsync() =>
        (await WaitForLineAsync("Now listening on: ")).Split("Now listening on: ")[1].Split('"')[0].Trim();

    /// <summary>Waits until the service is ready; on a busy machine the first check may exceed the timeout of readiness.</summary>
    public static async Task WaitUntilReadyAsync(string url)
    {
        using var client = new HttpClient();
        await Eventually.HoldsAsync(async () => (await client.GetAsync(new Uri($"{url}/health/ready"))).IsSuccessStatusCode, TimeSpan.FromSeconds(15));
    }

    /// <param name="withAllItsChildren">Whether every descendant is killed as well.</param>
    public void Kill(bool withAllItsChildren) => _process.Kill(withAllItsChildren);

    public static IEnumerable<int> ChildrenOf(int processId) => File.ReadAllText($"/proc/{processId}/task/{processId}/children")
        .Split(' ', StringSplitOptions.RemoveEmptyEntries)
        .Select(child => int.Parse(child, CultureInfo.InvariantCulture));

    /// <param name="signal">INT, TERM, STOP or CONT.</param>
    /// <param name="processId">Which process it is sent to.</param>
    public static void Signal(string signal, int processId)
    {
        // The process may have ended meanwhile.
        using var kill = Process.Start("sh", ["-c", $"kill -{signal} {processId} 2> /dev/null"]);
        kill.WaitForExit();
    }

    /// <summary>Whether the process has ended; a zombie counts as ended, as orphans may not be reaped.</summary>
    public static bool HasEnded(int processId)
    {
        try
        {
            return File.ReadAllText($"/proc/{processId}/stat").Contains(") Z ", StringComparison.Ordinal);
        }
        catch (IOException)
        {
            return true;
        }
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
        }

        _process.Dispose();
        if (_folder is not null)
        {
            Directory.Delete(_folder, recursive: true);
        }
    }

    // tests/bin/{configuration}/{framework}/
    private static string Configuration => new DirectoryInfo(AppContext.BaseDirectory).Parent!.Name;

    public static string Repository => Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "..", "..", "..", ".."));
}
