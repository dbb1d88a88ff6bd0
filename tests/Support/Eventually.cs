using System.Diagnostics;

namespace CalcomAccounts.Tests.Support;

/// <summary>Polls for a condition.</summary>
internal static class Eventually
{
    /// <summary>Fails when the condition does not hold within the timeout.</summary>
    public static async Task HoldsAsync(Func<Task<bool>> condition, TimeSpan timeout)
    {
        var started = Stopwatch.GetTimestamp();
        while (!await condition())
        {
            Assert.InRange(Stopwatch.GetElapsedTime(started), TimeSpan.Zero, timeout);
            await Task.Delay(20);
        }
    }

    public static Task HoldsAsync(Func<bool> condition, TimeSpan timeout) => HoldsAsync(() => Task.FromResult(condition()), timeout);
}
