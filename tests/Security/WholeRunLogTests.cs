namespace CalcomAccounts.Tests.Security;

/// <summary>What all services of this test run have logged. Runs when all other tests have ended.</summary>
[Collection(AfterAllOthers.Name)]
public sealed class WholeRunLogTests(ServiceFixture fixture)
{
    [Fact]
    public async Task LogsOfAllTests_HoldNoSecret()
    {
        Assert.Equal(404, (await fixture.Service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(Guid.NewGuid()))).Status);

        Assert.NotEqual(0, LeakDetector.Instance.Lines);
        Assert.Empty(LeakDetector.Instance.Leaks);
    }
}
