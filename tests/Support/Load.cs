namespace CalcomAccounts.Tests.Support;

/// <summary>Clients that ask again and again while something happens to what answers them.</summary>
internal static class Load
{
    /// <param name="clients">How many ask at once.</param>
    /// <param name="askAsync">One question of a client, by its index; it returns the status of the answer.</param>
    /// <param name="happening">They ask from its begin to its end.</param>
    /// <returns>The statuses of all answers.</returns>
    public static async Task<IReadOnlyList<int>> AskThroughAsync(int clients, Func<int, Task<int>> askAsync, Func<Task> happening)
    {
        using var enough = new CancellationTokenSource();
        var asking = Task.WhenAll(Enumerable.Range(0, clients).Select(client => Task.Run(async () =>
        {
            var statuses = new List<int>();
            while (!enough.IsCancellationRequested)
            {
                statuses.Add(await askAsync(client));
            }

            return statuses;
        })));
        try
        {
            await happening();
        }
        finally
        {
            await enough.CancelAsync();
        }

        return [.. (await asking).SelectMany(statuses => statuses)];
    }
}
