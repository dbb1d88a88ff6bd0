using System.Runtime.CompilerServices;

namespace CalcomAccounts.Tests.Support;

/// <summary>A test that needs a program, which .ci/run installs: without it the test is skipped, and fails in CI.</summary>
[AttributeUsage(AttributeTargets.Method)]
internal sealed class FactWithAttribute : FactAttribute
{
    public FactWithAttribute(string program, [CallerFilePath] string? sourceFile = null, [CallerLineNumber] int sourceLine = -1)
        : base(sourceFile, sourceLine)
    {
        var folders = Environment.GetEnvironmentVariable("PATH")!.Split(':');
        if (!folders.Any(folder => File.Exists(Path.Combine(folder, program))) && Environment.GetEnvironmentVariable("CI") is not "true")
        {
            Skip = $"needs {program}";
        }
    }
}
