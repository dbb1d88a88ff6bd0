using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>Reads agents from where the platform keeps them.</summary>
public interface IAgentReader
{
    /// <summary>
    /// The agent as it is stored now, or null when it does not exist, is deleted, or is out of the caller's reach.
    /// One round trip at most, and nothing is answered from memory.
    /// </summary>
    /// <exception cref="OperationCanceledException">
    /// <paramref name="cancellationToken"/> was cancelled; the store has been told so, and is not waited for.
    /// </exception>
    Task<Agent?> FindAsync(Guid agentId, Caller caller, CancellationToken cancellationToken);
}
