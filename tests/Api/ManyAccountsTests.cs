using System.Diagnostics;
using System.Text;
using System.Text.Json;

namespace CalcomAccounts.Tests.Api;

/// <summary>The list operation: valid and invalid bodies, the order of the answers, and the number of statements.</summary>
public sealed class ManyAccountsTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string Uuid = "0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01";
    private const string NoList = "the body must be a JSON object that holds agent_ids, a list of 1 to 100 UUIDs, and nothing else but org_id";

    private readonly Guid _org = Guid.NewGuid();

    public static TheoryData<string, string> Malformed => new()
    {
        { "", NoList },
        { "null", NoList },
        { "[]", NoList },
        { $"[\"{Uuid}\"]", NoList },
        { "{}", NoList },
        { "{\"agent_ids\":null}", NoList },
        { "{\"agent_ids\":{}}", NoList },
        { $"{{\"agent_ids\":\"{Uuid}\"}}", NoList },
        { "{\"agent_ids\":[]}", NoList },
        { $"{{\"agent_ids\":[{Many(101)}]}}", NoList },
        { $"{{\"agent_ids\":[\"{Uuid}\"]", NoList },
        { $"{{\"agent_ids\":[\"{Uuid}\"]}} more", NoList },
        { $"{{\"agent_ids\":[\"{Uuid}\",]}}", NoList },
        { $"{{\"Agent_Ids\":[\"{Uuid}\"]}}", NoList },
        { $"{{\"agent_ids\":[\"{Uuid}\"],\"agent_ids\":[\"{Uuid}\"]}}", NoList },
        { $"{{\"agent_ids\":[\"{Uuid}\"],\"orgid\":\"{Uuid}\"}}", NoList },
        { $"{{\"agent_ids\":[\"{Uuid}\"],\"\\ud800\":1}}", NoList },
        { $"{{\"org_id\":\"{Uuid}\"}}", NoList },
        { $"agent_ids={Uuid}", NoList },
        { "{\"agent_ids\":[\"\"]}", "agent_ids[0] must be a UUID" },
        { "{\"agent_ids\":[null]}", "agent_ids[0] must be a UUID" },
        { $"{{\"agent_ids\":[\"{Uuid}\",7]}}", "agent_ids[1] must be a UUID" },
        { $"{{\"agent_ids\":[\"{Uuid}\",\" {Uuid}\"]}}", "agent_ids[1] must be a UUID" },
        { $"{{\"agent_ids\":[\"{Uuid}\",[\"{Uuid}\"]]}}", "agent_ids[1] must be a UUID" },
        { $"{{\"agent_ids\":[\"{Uuid}\",\"\\ud800\"]}}", "agent_ids[1] must be a UUID" },
        { $"{{\"agent_ids\":[\"{Uuid}\",\"{Uuid[1..]}\",\"x\"]}}", "agent_ids[1] must be a UUID" },
        { $"{{\"agent_ids\":[{Many(99)},\"{Uuid}0\"]}}", "agent_ids[99] must be a UUID" },
        { $"{{\"agent_ids\":[\"{new string('a', 100_000)}\"]}}", NoList },
    };

    [Theory]
    [InlineData(null)]
    [InlineData("text/plain")]
    [InlineData("application/x-www-form-urlencoded")]
    [InlineData("application/jsonx")]
    public async Task UnsupportedContentType_Returns415OnlyWithValidToken(string? contentType)
    {
        Task<Answer> PostAsync(string? token) => fixture.Service.SendAsync("POST", TestService.AccountsPath, token, request =>
        {
            request.Content = new ByteArrayContent(Encoding.UTF8.GetBytes($"{{\"agent_ids\":[\"{Uuid}\"]}}"));
            request.Content.Headers.TryAddWithoutValidation("Content-Type", contentType ?? "");
        });

        var answer = await PostAsync(Tokens.OfOrganization(_org));
        Assert.Equal((415, """{"success":false,"message":"Content-Type must be application/json, and the body not compressed","code":"UNSUPPORTED_MEDIA_TYPE"}"""), (answer.Status, answer.Body));
        Assert.Equal("no-store", answer.Header("Cache-Control"));
        Assert.Equal(401, (await PostAsync(token: null)).Status);
    }

    [Theory]
    [InlineData("application/json")]
    [InlineData("Application/JSON; charset=utf-8")]
    public async Task JsonContentType_InAnySpelling_IsAccepted(string contentType)
    {
        var answer = await fixture.Service.SendAsync("POST", TestService.AccountsPath, Tokens.OfOrganization(_org), request =>
        {
            request.Content = new ByteArrayContent(Encoding.UTF8.GetBytes($"{{\"agent_ids\":[\"{Uuid}\"]}}"));
            request.Content.Headers.TryAddWithoutValidation("Content-Type", contentType);
        });

        Assert.Equal(200, answer.Status);
    }

    [Theory]
    [MemberData(nameof(Malformed))]
    public async Task MalformedBody_Returns400OnlyWithValidToken(string body, string message)
    {
        var answer = await fixture.Service.PostAccountsAsync(body, Tokens.OfOrganization(_org));

        Assert.Equal((400, $$"""{"success":false,"message":"{{message}}","code":"INVALID_REQUEST"}"""), (answer.Status, answer.Body));
        Assert.Equal(401, (await fixture.Service.PostAccountsAsync(body, token: null)).Status);
    }

    [Fact]
    public async Task AccountList_KeepsOrderAndDuplicatesWithOneStatement()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await using var service = await TestService.StartAsync(database.ServiceConnectionString);
        var account = await database.AddOrgAccountAsync(_org, new());
        var agents = new List<Guid>();
        for (var i = 0; i < 60; i++)
        {
            var agent = await database.AddAgentAsync(_org, i % 3 is 0 ? account : null);
            if (i % 3 is 1)
            {
                await database.AddKeyAsync(agent, new());
            }

            agents.Add(agent);
        }

        var foreign = await database.AddAgentAsync(Guid.NewGuid());
        List<Guid> requested = [.. agents, foreign, Guid.NewGuid(), .. agents.AsEnumerable().Reverse().Take(38)];
        Assert.Equal(100, requested.Count);
        var expected = new List<string>();
        foreach (var agent in requested)
        {
            var one = await service.GetAccountAsync(agent, Tokens.OfOrganization(_org));
            expected.Add(one.Status is 404 ? "null" : JsonDocument.Parse(one.Body).RootElement.GetProperty("data").GetRawText());
        }

        using var statements = new StatementCounter(database, "with ordinality");
        var answer = await service.GetAccountsAsync(requested, Tokens.OfOrganization(_org));

        var accounts = string.Join(',', requested.Zip(expected, (id, one) => $$$"""{"agent_id":"{{{id}}}","account":{{{one}}}}"""));
        Assert.Equal(
            (200, $$$"""{"success":true,"message":"Agent Cal.com accounts retrieved","data":{"accounts":[{{{accounts}}}]}}"""),
            (answer.Status, answer.Body));
        Assert.Equal(1, statements.Count);
    }

    [Theory]
    [InlineData("", "", 200, true)]
    [InlineData("", ",\"org_id\":null", 200, true)]
    [InlineData("", ",\"org_id\":\"{mine}\"", 200, true)]
    [InlineData("?org_id={mine}", "", 200, true)]
    [InlineData("", ",\"org_id\":\"{other}\"", 200, false)]
    [InlineData("?org_id={other}", "", 200, false)]
    [InlineData("", ",\"org_id\":\"\"", 400, false)]
    [InlineData("", ",\"org_id\":7", 400, false)]
    [InlineData("", ",\"org_id\":[\"{mine}\"]", 400, false)]
    [InlineData("?org_id=", "", 400, false)]
    [InlineData("?org_id={mine}", ",\"org_id\":\"{mine}\"", 400, false)]
    public async Task OrgIdInBodyOrQuery_NarrowsMemberTokensAndIsIgnoredWithOrgClaim(string query, string member, int status, bool found)
    {
        var (other, subject) = (Guid.NewGuid(), Guid.NewGuid().ToString());
        await fixture.Tables.AddMemberAsync(_org, subject);
        await fixture.Tables.AddMemberAsync(other, subject);
        var agent = await fixture.Tables.AddAgentAsync(_org);
        string Fill(string text) => text.Replace("{mine}", _org.ToString(), StringComparison.Ordinal).Replace("{other}", other.ToString(), StringComparison.Ordinal);
        var body = $$"""{"agent_ids":["{{agent}}"]{{Fill(member)}}}""";

        var bySubject = await fixture.Service.PostAccountsAsync(body, Tokens.OfSubject(subject), Fill(query));
        Assert.Equal(status, bySubject.Status);
        Assert.Contains(
            status is 400 ? "org_id must be a UUID, given once" : found ? "\"connected\":false" : "\"account\":null", bySubject.Body, StringComparison.Ordinal);

        var byClaim = await fixture.Service.PostAccountsAsync(body, Tokens.OfOrganization(_org), Fill(query));
        Assert.Contains("\"connected\":false", byClaim.Body, StringComparison.Ordinal);
    }

    [Fact]
    public async Task BodySentTooSlowly_Returns400()
    {
        using var client = await RawHttp.ConnectAsync(fixture.Service.Url);
        var stream = client.GetStream();
        await stream.WriteAsync(Encoding.ASCII.GetBytes(
            $"POST {TestService.AccountsPath} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {Tokens.OfOrganization(_org)}\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"));

        var started = Stopwatch.GetTimestamp();
        var buffer = new byte[4096];
        var answer = Encoding.UTF8.GetString(buffer, 0, await stream.ReadAsync(buffer));

        Assert.StartsWith("HTTP/1.1 400 ", answer, StringComparison.Ordinal);
        Assert.Contains(NoList, answer, StringComparison.Ordinal);
        Assert.InRange(Stopwatch.GetElapsedTime(started).TotalSeconds, 1, 4);
    }

    [Fact]
    public async Task UpperCaseAgentId_IsReturnedInLowerCase()
    {
        var answer = await fixture.Service.PostAccountsAsync($$"""{"agent_ids":["{{Uuid.ToUpperInvariant()}}"]}""", Tokens.OfOrganization(_org));

        Assert.Contains($"\"agent_id\":\"{Uuid}\"", answer.Body, StringComparison.Ordinal);
    }

    [Fact]
    public async Task RejectedBody_IsNeitherEchoedNorLogged()
    {
        var token = Tokens.OfOrganization(_org);
        foreach (var body in new[] { $$"""{"agent_ids":["{{token}}"]}""", $$"""{"agent_ids":[],"{{token}}":1}""", $$"""{"agent_ids":{{token}} }""", token })
        {
            Assert.DoesNotContain(token, (await fixture.Service.PostAccountsAsync(body, token)).Body, StringComparison.Ordinal);
        }

        Assert.Empty(LeakDetector.Instance.Leaks);
    }

    [Theory]
    [InlineData("PUT")]
    [InlineData("DELETE")]
    public async Task WrongMethod_Returns405(string method)
    {
        var answer = await fixture.Service.SendAsync(method, TestService.AccountsPath, Tokens.OfOrganization(_org));

        Assert.Equal((405, "GET, HEAD, POST"), (answer.Status, answer.Header("Allow")));
    }

    private static string Many(int count) => string.Join(',', Enumerable.Repeat($"\"{Uuid}\"", count));
}
