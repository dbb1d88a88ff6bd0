using System.Text;
using System.Text.RegularExpressions;
using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure.Development;
using CalcomAccounts.Infrastructure.Diagnostics;

namespace CalcomAccounts.Tests.Repository;

/// <summary>The documented requests get the documented answers on the sample data.</summary>
public sealed class ExampleTests(SampleDataFixture setup) : IClassFixture<SampleDataFixture>
{
    private const string Url = "http://localhost:5000";

    [Fact]
    public async Task DocumentedRequests_OnSampleData_GetTheDocumentedAnswers()
    {
        var examples = Docs.Pages.SelectMany(page => Docs.Blocks(page, "console")).Where(block => block.Contains(Url, StringComparison.Ordinal)).ToList();
        Assert.NotEmpty(examples);
        foreach (var example in examples)
        {
            var request = Regex.Match(
                example, $"^\\$ curl (-H 'Authorization: Bearer eyJhbGciOi…' )?(?:-H 'Content-Type: (.+)' -d '(.+)' )?'{Regex.Escape(Url)}(.+)'\n(.+)\n$");
            Assert.True(request.Success, example);
            var (type, body, path, answer) = (request.Groups[2].Value, request.Groups[3].Value, request.Groups[4].Value, request.Groups[5].Value);
            var token = request.Groups[1].Success ? Tokens.OfOrganization(SampleData.OrgId) : null;
            Assert.Equal(answer, (await SendAsync(body.Length > 0 ? "POST" : "GET", path, token, body, type)).Body);
        }
    }

    [Fact]
    public async Task DocumentedCheck_OnSampleData_PrintsTheDocumentedReport()
    {
        var report = CheckReport.ToText(await DatabaseCheck.RunAsync(setup.ConnectionString, isDistributed: false, CancellationToken.None));
        var shown = Docs.Block("docs/database.md", "console", "-- check\n").Split('\n', 3)[2];

        Assert.Equal(WithoutServer(shown.TrimEnd('\n')), WithoutServer(report));

        // The server, its version and the duration vary.
        static string WithoutServer(string text) => Regex.Replace(text[text.IndexOf('\n')..], @"PostgreSQL \d+\.\d+|in \d+ ms", "…");
    }

    [Fact]
    public async Task RequestsOfHttpFile_GetTheAnswersOfTheirTitles()
    {
        var file = await File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "src", "Api", "CalcomAccounts.http"));
        var variables = Regex.Matches(file, "^@(\\w+) = (.*)$", RegexOptions.Multiline).ToDictionary(match => match.Groups[1].Value, match => match.Groups[2].Value);
        Assert.Equal(Url, variables["url"]);
        variables["url"] = "";
        variables["token"] = Tokens.OfOrganization(SampleData.OrgId);

        var requests = file.Split("\n### ")[1..];
        foreach (var request in requests)
        {
            var title = Regex.Match(request, "^(\\d{3}) (.+?): ");
            var filled = Fill(Fill(request[(request.IndexOf('\n') + 1)..]));
            var (head, body) = (filled.Split("\n\n", 2)[0].Split('\n'), filled.Split("\n\n", 2).ElementAtOrDefault(1)?.Trim());
            var answer = await SendAsync(
                head[0].Split(' ')[0],
                head[0].Split(' ')[1],
                head.SingleOrDefault(line => line.StartsWith("Authorization: Bearer ", StringComparison.Ordinal))?.Split(' ')[2],
                body,
                "application/json");

            Assert.Equal(title.Groups[1].Value, $"{answer.Status}");
            Assert.Contains(title.Groups[2].Value, answer.Body, StringComparison.Ordinal);
        }

        Assert.Equal(13, requests.Length);

        string Fill(string text) => Regex.Replace(text, "\\{\\{(\\w+)\\}\\}", name => variables[name.Groups[1].Value]);
    }

    [FactWith("jq")]
    public async Task DocumentedShellLines_TellWhoCannotBookAndWhoStops()
    {
        var lines = Docs.Block("docs/operations.md", "sh", "agents connected=false");

        Assert.Equal(
            "a0000000-0000-4000-8000-000000000003 \"Neither\"\na0000000-0000-4000-8000-000000000002 \"Linked\"\n",
            await Shell.RunAsync($"URL={setup.Service.Url} TOKEN={Tokens.OfOrganization(SampleData.OrgId)}\n{lines}"));
        Assert.Equal("incomplete\n", await Shell.RunAsync($"URL={setup.Service.Url} TOKEN=none\n{lines.Split("\n\n")[0]}\nagents connected=false || echo incomplete"));
    }

    private Task<Answer> SendAsync(string method, string path, string? token, string? body, string type) => setup.Service.SendAsync(
        method, path, token, message => message.Content = string.IsNullOrEmpty(body) ? null : new StringContent(body, Encoding.UTF8, type));
}
