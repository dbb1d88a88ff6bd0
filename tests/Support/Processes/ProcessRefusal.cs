namespace CalcomAccounts.Tests.Support.Processes;

internal static class ProcessRefusal
{
    /// <summary>Fails unless the program exits with an error and one line, which names all of these and repeats no secret.</summary>
    public static async Task AssertAsync(string[] arguments, Dictionary<string, string> environment, params string[] named)
    {
        using var process = ServiceProcess.Start(arguments, environment);

        Assert.NotEqual(0, await process.WaitForExitAsync());
        Assert.Single(process.Errors.Split('\n'));
        Assert.Equal("", process.Output);
        Assert.All(named, name => Assert.Contains(name, process.Errors, StringComparison.Ordinal));
        Assert.DoesNotContain(ProcessSettings.Secret, process.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain(ProcessSettings.SigningKey, process.Errors, StringComparison.Ordinal);
    }
}
