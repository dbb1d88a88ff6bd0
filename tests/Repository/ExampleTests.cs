using System.Text;
using System.Text.RegularExpressions;
using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure.Development;
using CalcomAccounts.Infrastructure.Diagnostics;

namespace CalcomAccounts.Tests.Repository;

/// <summary>The requests that newcomers are shown are answered as they are told, on the sample data.</summary>
public sealed class ExampleTests : IAsyncLifetime
{
    private const string Url = "http://localhost:5000";

    private EmbeddedPostgres _server = null!;
    private string _connectionString = null!;
    private TestService _service = null!;

    public async Task InitializeAsync()
    {
        _server = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        _connectionString = await SampleData.LoadAsync(_server.ConnectionString, CancellationToken.None);
        _service = await TestService.StartAsync(_connectionString);
    }

    [Fact]
    public async Task DocumentedRequests_OnTheSampleData_AreAnsweredToTheLetter()
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
    public async Task DocumentedCheck_OnTheSampleData_ReportsWhatIsShown()
    {
        var report = CheckReport.ToText(await DatabaseCheck.RunAsync(_connectionString, CancellationToken.None));
        var shown = Docs.Block("docs/database.md", "console", "-- check\n").Split('\n', 3)[2];

        Assert.Equal(WithoutServer(shown.TrimEnd('\n')), WithoutServer(report));

        // Which server it is, its version, and how fast it is.
        static string WithoutServer(string text) => Regex.Replace(text[text.IndexOf('\n')..], @"PostgreSQL \d+\.\d+|in \d+ ms", "…");
    }

    [Fact]
    public async Task ThoseForEditorsAreAnsweredAsTheirTitlesSay()
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

        Assert.Equal(11, requests.Length);

        string Fill(string text) => Regex.Replace(text, "\\{\\{(\\w+)\\}\\}", name => variables[name.Groups[1].Value]);
    }

    public async Task DisposeAsync()
    {
        await _service.DisposeAsync();
        await _server.DisposeAsync();
    }

    private Task<Answer> SendAsync(string method, string path, string? token, string? body, string type) => _service.SendAsync(
        method, path, token, message => message.Content = string.IsNullOrEmpty(body) ? null : new StringContent(body, Encoding.UTF8, type));
}
