using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace CalcomAccounts.Tests.Support;

/// <summary>The environment of these tests and of what they start: without what the shell has set for a service of its own.</summary>
internal static class TestEnvironment
{
    private static readonly string[] s_settings =
        ["ASPNETCORE_", "DOTNET_ENVIRONMENT", "ConnectionStrings__", "Authentication__", "Kestrel__", "Logging__", "OTEL_"];

    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "Before any test, whichever is the first.")]
    internal static void Clear()
    {
        foreach (var name in Environment.GetEnvironmentVariables().Keys.Cast<string>())
        {
            if (s_settings.Any(setting => name.StartsWith(setting, StringComparison.Ordinal)))
            {
                Environment.SetEnvironmentVariable(name, null);
            }
        }
    }
}
