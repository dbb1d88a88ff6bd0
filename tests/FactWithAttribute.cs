namespace CalcomAccounts.Tests;

/// <summary>A test that needs a program, which .ci/run installs: without it the test is skipped, and fails in CI.</summary>
[AttributeUsage(AttributeTargets.Method)]
internal sealed class FactWithAttribute : FactAttribute
{
    public FactWithAttribute(params string[] anyOf)
    {
        if (!anyOf.Any(File.Exists) && Environment.GetEnvironmentVariable("CI") is not "true")
        {
            Skip = $"needs {string.Join(" or ", anyOf)}";
        }
    }
}
