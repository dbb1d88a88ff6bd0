using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>Reads agents from where the platform keeps them.</summary>
public interface IAgentReader
{
    /// <summary>
    /// The agents as they are stored now, in the order of <paramref name="agentIds"/>: null for one that does not exist, is
    /// deleted, or is out of the caller's reach. One round trip at most for all, and nothing is answered from memory.
    /// </summary>
    /// <exception cref="OperationCanceledException">
    /// <paramref name="cancellationToken"/> was cancelled; the store has been told so, and is not waited for.
    /// </exception>
    /// <exception cref="TooManyLookupsException">There is no place left in the queue.</exception>
    Task<IReadOnlyList<Agent?>> FindAsync(IReadOnlyList<Guid> agentIds, Caller caller, CancellationToken cancellationToken);

    /// <summary>Asks the store what lookups ask, beside them rather than in their queue.</summary>
    /// <exception cref="Exception">The store does not answer it.</exception>
    Task ProbeAsync(CancellationToken cancellationToken);
}

/// <summary>There is no place left in the queue of lookups.</summary>
/// <param name="isOfCaller">Whether the caller itself has filled its share; otherwise all others together have filled the queue.</param>
public sealed class TooManyLookupsException(bool isOfCaller)
    : Exception(isOfCaller ? "The caller has as many lookups waiting as it may." : "The queue of lookups is full.")
{
    /// <summary>Whether the caller itself has filled its share.</summary>
    public bool IsOfCaller { get; } = isOfCaller;
}
