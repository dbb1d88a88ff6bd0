namespace CalcomAccounts.Tests.Support.Http;

/// <summary>Clients that send one request after the other while something happens to the service or its database.</summary>
internal static class Load
{
    /// <summary>With this pause a few clients send several hundred requests a second, and leave the processors to other tests.</summary>
    public static TimeSpan Pause { get; } = TimeSpan.FromMilliseconds(30);

    /// <param name="clients">How many send at once.</param>
    /// <param name="sendAsync">One request of a client, by the client's index; it returns the status of the answer.</param>
    /// <param name="action">They send from its begin to its end.</param>
    /// <param name="pause">How long each waits between an answer and its next request.</param>
    /// <returns>The statuses of all answers.</returns>
    public static async Task<IReadOnlyList<int>> SendDuringAsync(int clients, Func<int, Task<int>> sendAsync, Func<Task> action, TimeSpan pause)
    {
        using var ended = new CancellationTokenSource();
        var sending = Task.WhenAll(Enumerable.Range(0, clients).Select(client => Task.Run(async () =>
        {
            var statuses = new List<int>();
            while (!ended.IsCancellationRequested)
            {
                statuses.Add(await sendAsync(client));
                await Task.Delay(pause);
            }

            return statuses;
        })));
        try
        {
            await action();
        }
        finally
        {
            await ended.CancelAsync();
        }

        return [.. (await sending).SelectMany(statuses => statuses)];
    }
}
