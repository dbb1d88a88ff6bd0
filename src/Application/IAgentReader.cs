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
    Task<IReadOnlyList<Agent?>> FindAsync(IReadOnlyList<Guid> agentIds, Caller caller, CancellationToken cancellationToken);
}
