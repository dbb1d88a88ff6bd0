using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace CalcomAccounts.Tests.Support;

/// <summary>Removes settings of the service from the environment, so that the shell can not affect the tests.</summary>
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
