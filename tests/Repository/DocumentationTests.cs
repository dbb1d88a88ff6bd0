using System.Text.RegularExpressions;

namespace CalcomAccounts.Tests.Repository;

/// <summary>The links between the pages of README.md, docs/ and .github/.</summary>
public sealed partial class DocumentationTests
{
    public static TheoryData<string> Pages => [.. Docs.Pages.Append(".github/CONTRIBUTING.md").Append(".github/SECURITY.md")];

    [Theory]
    [MemberData(nameof(Pages))]
    public void RelativeLinks_PointToExistingFilesAndHeadings(string page)
    {
        foreach (Match link in RelativeLink.Matches(Read(page)))
        {
            var target = link.Groups[1].Value is "" ? page : Path.Combine(Path.GetDirectoryName(page)!, link.Groups[1].Value);

            Assert.True(Path.Exists(Path.Combine(ServiceProcess.Repository, target)), link.Value);
            if (link.Groups[2].Success)
            {
                Assert.Contains(link.Groups[2].Value, Heading.Matches(Read(target)).Select(heading => Anchor(heading.Groups[1].Value)));
            }
        }
    }

    [Fact]
    public void ArchitectureDecisions_AreAllListedInTheIndex() => Assert.Equal(
        Docs.Pages.Where(page => page.StartsWith("docs/adr/", StringComparison.Ordinal)).Select(Path.GetFileName).Order(),
        Docs.Table("docs/README.md", "decision").Select(row => Regex.Match(row[0], @"\(adr/(.+)\)$").Groups[1].Value));

    private static string Read(string page) => File.ReadAllText(Path.Combine(ServiceProcess.Repository, page));

    // The anchors that GitHub generates.
    private static string Anchor(string heading) => NoAnchor.Replace(heading.ToLowerInvariant(), "").Replace(' ', '-');

    [GeneratedRegex(@"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")]
    private static partial Regex RelativeLink { get; }

    [GeneratedRegex("^#+ (.+)$", RegexOptions.Multiline)]
    private static partial Regex Heading { get; }

    [GeneratedRegex(@"[^\w -]")]
    private static partial Regex NoAnchor { get; }
}
