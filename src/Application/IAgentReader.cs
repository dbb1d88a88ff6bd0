using CalcomAccounts.Domain;

namespace CalcomAccounts.Application;

/// <summary>Reads agents from the platform's database.</summary>
public interface IAgentReader
{
    /// <summary>
    /// The agents as they are stored now, in the order of <paramref name="agentIds"/>: null for one that does not exist, is deleted,
    /// or is outside the caller's organizations. All are read in one round trip, but for callers without an organization on a distributed
    /// database, and nothing is cached.
    /// </summary>
    /// <exception cref="OperationCanceledException">
    /// <paramref name="cancellationToken"/> was cancelled. The database is told to cancel, but not waited for.
    /// </exception>
    /// <exception cref="TooManyLookupsException">The queue has no room for these lookups.</exception>
    Task<IReadOnlyList<Agent?>> FindAsync(IReadOnlyList<Guid> agentIds, Caller caller, CancellationToken cancellationToken);

    /// <summary>
    /// The agents of the caller's organization as they are stored now, in ascending order of their ids, each with no more than the
    /// best-ranked of its keys; none for an organization that the caller has no part in. They are read in one round trip.
    /// </summary>
    /// <param name="caller">With an organization.</param>
    /// <param name="after">Only agents with greater ids; null for all.</param>
    /// <param name="count">How many at most.</param>
    /// <param name="cancellationToken">As in <see cref="FindAsync"/>.</param>
    /// <exception cref="TooManyLookupsException">The queue has no room for these agents.</exception>
    Task<IReadOnlyList<ListedAgent>> ListAsync(Caller caller, Guid? after, int count, CancellationToken cancellationToken);

    /// <summary>Sends the same statement as a lookup, bypassing the queue, to find out whether the database responds.</summary>
    /// <exception cref="Exception">The database does not respond, or the statement fails.</exception>
    Task ProbeAsync(CancellationToken cancellationToken);
}
