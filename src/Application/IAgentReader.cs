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
    /// <exception cref="TooManyLookupsException">The caller has as many lookups waiting as it may.</exception>
    Task<IReadOnlyList<Agent?>> FindAsync(IReadOnlyList<Guid> agentIds, Caller caller, CancellationToken cancellationToken);

    /// <summary>Asks the store what lookups ask, beside them rather than in their queue.</summary>
    /// <exception cref="Exception">The store does not answer it.</exception>
    Task ProbeAsync(CancellationToken cancellationToken);
}

/// <summary>A caller has filled its own share of the queue of lookups; others have not.</summary>
public sealed class TooManyLookupsException() : Exception("The caller has as many lookups waiting as it may.");
