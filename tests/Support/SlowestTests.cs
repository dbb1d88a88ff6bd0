using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using Xunit.v3;

[assembly: AssemblyFixture(typeof(SlowestTests))]
[assembly: MeasureDuration]

namespace CalcomAccounts.Tests.Support;

/// <summary>Reports the slowest tests at the end of the run.</summary>
public sealed class SlowestTests : IDisposable
{
    private const int Shown = 5;

    private static readonly ConcurrentDictionary<string, TimeSpan> s_durations = new();

    /// <summary>Of a test with several cases, the slowest counts.</summary>
    internal static void Add(string test, TimeSpan duration) => s_durations.AddOrUpdate(test, duration, (_, other) => other > duration ? other : duration);

    public void Dispose()
    {
        var slowest = s_durations.OrderByDescending(test => test.Value).Take(Shown)
            .Select(test => string.Create(CultureInfo.InvariantCulture, $"{test.Key} {test.Value.TotalSeconds:0.0} s"));
        TestContext.Current.SendDiagnosticMessage("The slowest tests: {0}", string.Join(", ", slowest));
    }
}

/// <summary>Measures the duration of each test, without the setup of its class.</summary>
[AttributeUsage(AttributeTargets.Assembly)]
internal sealed class MeasureDurationAttribute : BeforeAfterTestAttribute
{
    private static readonly ConcurrentDictionary<string, long> s_started = new();

    public override void Before(MethodInfo methodUnderTest, IXunitTest test) => s_started[test.UniqueID] = Stopwatch.GetTimestamp();

    public override void After(MethodInfo methodUnderTest, IXunitTest test) => SlowestTests.Add(
        $"{methodUnderTest.DeclaringType!.Name}.{methodUnderTest.Name}", Stopwatch.GetElapsedTime(s_started[test.UniqueID]));
}
