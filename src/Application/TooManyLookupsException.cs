namespace CalcomAccounts.Application;

/// <summary>The queue of lookups has no room for this one.</summary>
/// <param name="isCallerLimit">Whether it is the caller's own share that is used up; otherwise the whole queue is full.</param>
public sealed class TooManyLookupsException(bool isCallerLimit)
    : Exception(isCallerLimit ? "The caller's share of the lookup queue is used up." : "The lookup queue is full.")
{
    /// <summary>Whether it is the caller's own share that is used up (429); otherwise the whole queue is full (500).</summary>
    public bool IsCallerLimit { get; } = isCallerLimit;
}
