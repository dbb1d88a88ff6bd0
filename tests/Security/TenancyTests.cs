using System.Text.Json;
using CalcomAccounts.Application;

namespace CalcomAccounts.Tests.Security;

/// <summary>docs/account-resolution.md: every combination of organization claim, query and membership.</summary>
public sealed class TenancyTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string NotFound = """{"success":false,"message":"Agent not found","code":"NOT_FOUND"}""";

    private readonly Guid _own = Guid.NewGuid();
    private readonly Guid _other = Guid.NewGuid();
    private readonly string _subject = $"user-{Guid.NewGuid()}";

    public enum Claim
    {
        Absent,
        Null,
        Empty,
        Own,
        OwnInUpperCase,
        Other,
        Garbage,
        Blank,
        InBraces,
        WithSpaceAround,
        ArrayOfOwn,
        EmptyArray,
        Number,
        EmptyObject,
        OwnTwice,
    }

    public enum OrgId
    {
        Absent,
        Own,
        OwnInUpperCase,
        Other,
        Empty,
        Blank,
        Malformed,
        OwnTwice,
    }

    public enum Subject
    {
        Absent,
        Null,
        Empty,
        Number,
        MemberOfOwn,
        MemberOfOther,
        MemberOfBoth,
        MemberOfNone,
        MemberInOtherCase,
    }

    public static TheoryData<Claim, OrgId, Subject> EveryCaller()
    {
        var data = new TheoryData<Claim, OrgId, Subject>();
        foreach (var claim in Enum.GetValues<Claim>())
        {
            foreach (var orgId in Enum.GetValues<OrgId>())
            {
                foreach (var subject in Enum.GetValues<Subject>())
                {
                    data.Add(claim, orgId, subject);
                }
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(EveryCaller))]
    public async Task EveryClaimQueryAndMembership_GivesTheDocumentedAccess(Claim claim, OrgId orgId, Subject subject)
    {
        var agent = await fixture.Tables.AddAgentAsync(_own);
        var deleted = await fixture.Tables.AddAgentAsync(_own, deleted: true);
        foreach (var org in subject switch
        {
            Subject.MemberOfOwn or Subject.MemberInOtherCase => [_own],
            Subject.MemberOfOther => [_other],
            Subject.MemberOfBoth => new[] { _own, _other },
            _ => [],
        })
        {
            await fixture.Tables.AddMemberAsync(org, _subject);
        }

        var token = Token(claim, subject);
        var answer = await fixture.Service.GetAccountAsync(agent, token, Query(orgId));
        var answerForDeleted = await fixture.Service.GetAccountAsync(deleted, token, Query(orgId));

        var expected = Expected(claim, orgId, subject);
        Assert.Equal(expected, answer.Status);
        Assert.Equal(expected is 200 ? 404 : expected, answerForDeleted.Status);
        Assert.Equal(NotFound, expected is 404 ? answer.Body : expected is 200 ? answerForDeleted.Body : NotFound);
        if (expected is 400)
        {
            Assert.Contains("org_id", answer.Body, StringComparison.Ordinal);
        }

        // The explanation and the list are visible to exactly those who see the account.
        var explained = await fixture.Service.ExplainAccountAsync(agent, token, Query(orgId));
        Assert.Equal((expected, expected is 200 ? explained.Body : answer.Body), (explained.Status, explained.Body));

        var many = await fixture.Service.GetAccountsAsync([agent, deleted, agent], token, Query(orgId));
        if (expected is 200 or 404)
        {
            var one = expected is 200 ? """{"connected":false,"type":"none"}""" : "null";
            Assert.Equal(
                (200, $$$"""{"success":true,"message":"Agent Cal.com accounts retrieved","data":{"accounts":[{"agent_id":"{{{agent}}}","account":{{{one}}}},{"agent_id":"{{{deleted}}}","account":null},{"agent_id":"{{{agent}}}","account":{{{one}}}}]}}"""),
                (many.Status, many.Body));
        }
        else
        {
            Assert.Equal((answer.Status, answer.Body), (many.Status, many.Body));
        }

        if (expected is 200 or 404)
        {
            Assert.Equal(answer.Body, (await fixture.DistributedService.GetAccountAsync(agent, token, Query(orgId))).Body);
            Assert.Equal(answerForDeleted.Body, (await fixture.DistributedService.GetAccountAsync(deleted, token, Query(orgId))).Body);
            Assert.Equal(explained.Body, (await fixture.DistributedService.ExplainAccountAsync(agent, token, Query(orgId))).Body);
            Assert.Equal(many.Body, (await fixture.DistributedService.GetAccountsAsync([agent, deleted, agent], token, Query(orgId))).Body);
        }
    }

    [Fact]
    public async Task UnknownAgent_Returns404()
    {
        var answer = await fixture.Service.GetAccountAsync(Guid.NewGuid(), Tokens.OfOrganization(_own));

        Assert.Equal((404, NotFound), (answer.Status, answer.Body));
    }

    [Fact]
    public async Task MemberOfManyOrganizations_SeesAgentsOfEach()
    {
        var agent = await fixture.Tables.AddAgentAsync(_own);
        for (var i = 0; i < 20; i++)
        {
            await fixture.Tables.AddMemberAsync(Guid.NewGuid(), _subject);
        }

        await fixture.Tables.AddMemberAsync(_own, _subject);

        Assert.Equal(200, (await fixture.Service.GetAccountAsync(agent, Tokens.OfSubject(_subject))).Status);
        Assert.Equal(200, (await fixture.Service.GetAccountAsync(agent, Tokens.OfSubject(_subject), $"?org_id={_own}")).Status);
    }

    [Fact]
    public async Task EndedMembership_Returns404()
    {
        var agent = await fixture.Tables.AddAgentAsync(_own);
        await fixture.Tables.AddMemberAsync(_own, _subject);
        Assert.Equal(200, (await fixture.Service.GetAccountAsync(agent, Tokens.OfSubject(_subject))).Status);

        await fixture.Tables.ExecuteAsync("delete from calcom.org_members where subject = @subject", new { subject = _subject });
        Assert.Equal(404, (await fixture.Service.GetAccountAsync(agent, Tokens.OfSubject(_subject))).Status);
    }

    [Fact]
    public void NarrowedCaller_NeverGainsAccess()
    {
        Assert.Equal(Caller.OfOrganization(_own), Caller.OfOrganization(_own).NarrowedTo(_other));
        Assert.Equal((_other, _subject), (Caller.OfSubject(_subject).NarrowedTo(_other).OrgId, Caller.OfSubject(_subject).NarrowedTo(_other).Subject));
        Assert.Throws<ArgumentException>(() => Caller.OfSubject(""));
    }

    // The expected status, as docs/account-resolution.md defines it.
    private static int Expected(Claim claim, OrgId orgId, Subject subject)
    {
        switch (claim)
        {
            case Claim.Own or Claim.OwnInUpperCase:
                return 200;
            case Claim.Other:
                return 404;
            case Claim.Absent or Claim.Null or Claim.Empty:
                break;
            default:
                return 401;
        }

        if (subject is Subject.Absent or Subject.Null or Subject.Empty or Subject.Number)
        {
            return 401;
        }

        var reachesOwn = subject is Subject.MemberOfOwn or Subject.MemberOfBoth;
        return orgId switch
        {
            OrgId.Empty or OrgId.Blank or OrgId.Malformed or OrgId.OwnTwice => 400,
            OrgId.Other => 404,
            _ => reachesOwn ? 200 : 404,
        };
    }

    private string Token(Claim claim, Subject subject)
    {
        var members = new List<string>
        {
            $"\"iss\":\"{Tokens.Issuer}\"", $"\"aud\":\"{Tokens.Audience}\"", $"\"exp\":{Tokens.InSeconds(300)}",
        };
        members.AddRange(claim switch
        {
            Claim.Absent => [],
            Claim.Null => ["\"org_id\":null"],
            Claim.Empty => ["\"org_id\":\"\""],
            Claim.Own => [$"\"org_id\":\"{_own}\""],
            Claim.OwnInUpperCase => [$"\"org_id\":\"{_own.ToString().ToUpperInvariant()}\""],
            Claim.Other => [$"\"org_id\":\"{_other}\""],
            Claim.Garbage => ["\"org_id\":\"garbage\""],
            Claim.Blank => ["\"org_id\":\" \""],
            Claim.InBraces => [$"\"org_id\":\"{{{_own}}}\""],
            Claim.WithSpaceAround => [$"\"org_id\":\" {_own}\""],
            Claim.ArrayOfOwn => [$"\"org_id\":[\"{_own}\"]"],
            Claim.EmptyArray => ["\"org_id\":[]"],
            Claim.Number => ["\"org_id\":7"],
            Claim.EmptyObject => ["\"org_id\":{}"],
            Claim.OwnTwice => new[] { $"\"org_id\":\"{_own}\"", $"\"org_id\":\"{_own}\"" },
            _ => throw new ArgumentOutOfRangeException(nameof(claim)),
        });
        members.AddRange(subject switch
        {
            Subject.Absent => [],
            Subject.Null => ["\"sub\":null"],
            Subject.Empty => ["\"sub\":\"\""],
            Subject.Number => ["\"sub\":7"],
            Subject.MemberInOtherCase => [$"\"sub\":{JsonSerializer.Serialize(_subject.ToUpperInvariant())}"],
            _ => new[] { $"\"sub\":{JsonSerializer.Serialize(_subject)}" },
        });
        return Tokens.Sign("""{"alg":"HS256","typ":"JWT"}""", $"{{{string.Join(',', members)}}}");
    }

    private string Query(OrgId orgId) => orgId switch
    {
        OrgId.Absent => "",
        OrgId.Own => $"?org_id={_own}",
        OrgId.OwnInUpperCase => $"?org_id={_own.ToString().ToUpperInvariant()}",
        OrgId.Other => $"?org_id={_other}",
        OrgId.Empty => "?org_id=",
        OrgId.Blank => "?org_id=%20",
        OrgId.Malformed => $"?org_id={_own:N}",
        OrgId.OwnTwice => $"?org_id={_own}&org_id={_own}",
        _ => throw new ArgumentOutOfRangeException(nameof(orgId)),
    };
}
