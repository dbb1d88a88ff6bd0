namespace CalcomAccounts.Tests;

/// <summary>No token, signature, key or password reaches a log, however verbose. Runs when all other tests have logged theirs.</summary>
[Collection(AfterAllOthers.Name)]
public sealed class LeakTests(ServiceFixture fixture)
{
    public static TheoryData<string> Requests()
    {
        const string Path = "/api/v1/calcom/agents/0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01/account";
        return
        [
            $"GET {Path} HTTP/1.1\r\nAuthorization: Bearer $TOKEN",
            $"GET {Path}?access_token=$TOKEN HTTP/1.1\r\nAuthorization: Bearer $TOKEN",
            "GET /api/v1/calcom/agents/$TOKEN/account HTTP/1.1\r\nAuthorization: Bearer $TOKEN",
            "GET /$TOKEN?$TOKEN HTTP/1.1\r\nCookie: $TOKEN",
            "GET /swagger/v1/swagger.json?$TOKEN HTTP/1.1\r\nX: $TOKEN",
            $"GET {Path} HTTP/1.1\r\nAuthorization: Bearer $TOKEN\x01",
            $"GET {Path} HTTP/1.1\r\n$TOKEN",
            $"GET {Path} HTTP/1.1\r\n$TOKEN : x",
            $"$TOKEN {Path} HTTP/1.1\r\nX: y",
            "$TOKEN",
            $"GET {Path} HTTP/$TOKEN\r\nX: y",
            $"GET {Path} HTTP/1.1\r\nAuthorization: Bearer x$TOKEN.$TOKEN",
            $"GET {Path} HTTP/1.1\r\nAuthorization: Basic $TOKEN",
            $"GET {Path} HTTP/1.1\r\nTransfer-Encoding: $TOKEN",
            $"GET {Path} HTTP/1.1\r\nContent-Length: $TOKEN",
        ];
    }

    [Theory]
    [MemberData(nameof(Requests))]
    public async Task NothingOfARequestIsLoggedButItsUuid(string request)
    {
        await RawHttp.SendAsync(
            fixture.Service.Url,
            $"{request.Replace("$TOKEN", Tokens.OfOrganization(Guid.NewGuid()), StringComparison.Ordinal)}\r\nHost: localhost\r\nConnection: close\r\n\r\n");

        Assert.Empty(LeakDetector.Instance.Leaks);
    }

    [Fact]
    public async Task NothingThatWasLoggedHoldsASecret()
    {
        Assert.Equal(404, (await fixture.Service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(Guid.NewGuid()))).Status);

        Assert.NotEqual(0, LeakDetector.Instance.Lines);
        Assert.Empty(LeakDetector.Instance.Leaks);
    }

    [Fact]
    public void ASecretWouldBeNoticed()
    {
        var token = Tokens.OfOrganization(Guid.NewGuid()).Split('.');

        Assert.All(token, part => Assert.True(LeakDetector.HoldsSecret($"Request starting GET /?token={part}&x HTTP/1.1")));
        Assert.True(LeakDetector.HoldsSecret($"Host=db;Password={TestDatabase.ServicePassword};"));
        Assert.True(LeakDetector.HoldsSecret($"key '{Convert.ToBase64String(Tokens.Key)}'"));
        Assert.True(LeakDetector.HoldsSecret("api_key=cal_secret_0123456789"));
        Assert.False(LeakDetector.HoldsSecret("200 agent agent=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01"));
    }
}

/// <summary>What is not to run beside other tests: it reads what they have logged, or needs the machine for itself.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class AfterAllOthers : ICollectionFixture<ServiceFixture>
{
    public const string Name = "after all others";
}
