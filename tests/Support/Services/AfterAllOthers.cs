namespace CalcomAccounts.Tests.Support.Services;

/// <summary>Tests that read what all others have logged, or measure and so need the machine for themselves: they run last, one by one.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class AfterAllOthers : ICollectionFixture<ServiceFixture>
{
    public const string Name = "after all others";
}
