using CalcomAccounts.Tests.Database;
using CalcomAccounts.Tests.Processes;
using CalcomAccounts.Tests.Resilience;
using CalcomAccounts.Tests.Security;
using Xunit.Sdk;
using Xunit.v3;

[assembly: TestCollectionOrderer(typeof(SlowestFirst))]

namespace CalcomAccounts.Tests.Support;

/// <summary>Starts the classes that take longest first, so that none of them is left to run alone at the end.</summary>
public sealed class SlowestFirst : ITestCollectionOrderer
{
    private static readonly List<string> s_slowest =
    [
        .. new[]
        {
            typeof(ReplicaTests), typeof(KeyRotationTests), typeof(ConsoleLogTests), typeof(DotnetRunTests), typeof(FaultTests), typeof(DevelopmentTests), typeof(TenancyTests),
            typeof(ConnectionLimitTests), typeof(MigrationTests), typeof(StartTests), typeof(HealthcheckTests), typeof(EmbeddedPostgresTests), typeof(AttackTests),
        }.Select(type => type.FullName!),
    ];

    public IReadOnlyCollection<TTestCollection> OrderTestCollections<TTestCollection>(IReadOnlyCollection<TTestCollection> testCollections)
        where TTestCollection : ITestCollection => [.. testCollections.OrderBy(collection => Rank(collection))];

    // The collection of a class that declares none is named after the class.
    private static int Rank(ITestCollection collection) =>
        s_slowest.FindIndex(type => collection.TestCollectionDisplayName.Contains($"{type} ", StringComparison.Ordinal)) is >= 0 and var rank ? rank : s_slowest.Count;
}
