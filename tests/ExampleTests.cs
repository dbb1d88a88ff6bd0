using System.Text;
using System.Text.RegularExpressions;
using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Tests;

/// <summary>The requests that newcomers are shown are answered as they are told, on the sample data.</summary>
public sealed class ExampleTests : IAsyncLifetime
{
    private const string Url = "http://localhost:5000";

    private EmbeddedPostgres _server = null!;
    private TestService _service = null!;

    public async Task InitializeAsync()
    {
        _server = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        _service = await TestService.StartAsync(await SampleData.LoadAsync(_server.ConnectionString, CancellationToken.None));
    }

    [Fact]
    public async Task TheReadmesAreAnsweredToTheLetter()
    {
        var examples = Regex.Matches(
            Readme.Text, $"^\\$ curl -H 'Authorization: Bearer eyJhbGciOi…' (?:-d '(.+)' )?'{Regex.Escape(Url)}(.+)'\n(.+)\n```$", RegexOptions.Multiline);
        foreach (Match example in examples)
        {
            var (body, path, answer) = (example.Groups[1].Value, example.Groups[2].Value, example.Groups[3].Value);
            Assert.Equal(answer, (await SendAsync(body.Length > 0 ? "POST" : "GET", path, Tokens.OfOrganization(SampleData.OrgId), body, "application/x-www-form-urlencoded")).Body);
        }

        Assert.Equal(3, examples.Count);
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
