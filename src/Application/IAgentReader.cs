using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>Reads agents from where the platform keeps them.</summary>
public interface IAgentReader
{
    /// <summary>
    /// The agent as it is stored now, or null when it does not exist, is deleted, or is out of the caller's reach.
    /// One round trip at most, and nothing is answered from memory.
    /// </summary>
    /// <exception cref="TimeoutException">The store did not answer within 4 seconds.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was cancelled.</exception>
    Task<Agent?> FindAsync(Guid agentId, Caller caller, CancellationToken cancellationToken);
}
