using System.Text;
using System.Text.RegularExpressions;
using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Tests;

/// <summary>The requests that editors offer do what their titles say, on the sample data.</summary>
public sealed class HttpFileTests
{
    [Fact]
    public async Task EachRequestIsAnsweredAsItsTitleSays()
    {
        var file = await File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "src", "Api", "CalcomAccounts.http"));
        await using var server = await EmbeddedPostgres.StartAsync(progress: null, CancellationToken.None);
        await using var service = await TestService.StartAsync(await SampleData.LoadAsync(server.ConnectionString, CancellationToken.None));
        var variables = Regex.Matches(file, "^@(\\w+) = (.*)$", RegexOptions.Multiline).ToDictionary(match => match.Groups[1].Value, match => match.Groups[2].Value);
        variables["url"] = "";
        variables["token"] = Tokens.OfOrganization(SampleData.OrgId);

        var requests = file.Split("\n### ")[1..];
        foreach (var request in requests)
        {
            var title = Regex.Match(request, "^(\\d{3}) (.+?): ");
            var filled = Fill(Fill(request[(request.IndexOf('\n') + 1)..]));
            var (head, body) = (filled.Split("\n\n", 2)[0].Split('\n'), filled.Split("\n\n", 2).ElementAtOrDefault(1)?.Trim());
            var answer = await service.SendAsync(
                head[0].Split(' ')[0],
                head[0].Split(' ')[1],
                head.SingleOrDefault(line => line.StartsWith("Authorization: Bearer ", StringComparison.Ordinal))?.Split(' ')[2],
                message => message.Content = string.IsNullOrEmpty(body) ? null : new StringContent(body, Encoding.UTF8, "application/json"));

            Assert.Equal(title.Groups[1].Value, $"{answer.Status}");
            Assert.Contains(title.Groups[2].Value, answer.Body, StringComparison.Ordinal);
        }

        Assert.Equal(11, requests.Length);

        string Fill(string text) => Regex.Replace(text, "\\{\\{(\\w+)\\}\\}", name => variables[name.Groups[1].Value]);
    }
}
