using System.Diagnostics;
using Npgsql;

namespace CalcomAccounts.Tests.Support.Postgres;

/// <summary>Counts the statements that this process executes in a database from now on, except probes; optionally only those that contain a text.</summary>
internal sealed class StatementCounter : IDisposable
{
    private readonly ActivityListener _listener;
    private readonly DateTime _created = DateTime.UtcNow;
    private int _count;

    public StatementCounter(TestDatabase database, string text = "")
    {
        var name = new NpgsqlConnectionStringBuilder(database.OwnerConnectionString).Database;
        _listener = new ActivityListener
        {
            ShouldListenTo = source => source.Name is "Npgsql",
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData,
            ActivityStopped = activity =>
            {
                // A statement that was cancelled before may end only now.
                if (activity.StartTimeUtc >= _created && Equals(name, activity.GetTagItem("db.namespace"))
                    && activity.GetTagItem("db.query.text") is string statement && statement.Contains(text, StringComparison.Ordinal) && !statement.StartsWith("-- probe", StringComparison.Ordinal))
                {
                    Interlocked.Increment(ref _count);
                }
            },
        };
        ActivitySource.AddActivityListener(_listener);
    }

    public int Count => _count;

    public void Dispose() => _listener.Dispose();
}
