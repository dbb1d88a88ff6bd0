using System.Text.RegularExpressions;

namespace CalcomAccounts.Tests.Support;

/// <summary>Reads the fenced blocks and tables of README.md and docs/, so that tests run what they show.</summary>
internal static partial class Docs
{
    /// <summary>README.md and every page under docs/, relative to the repository.</summary>
    public static IEnumerable<string> Pages => Directory
        .EnumerateFiles(Path.Combine(ServiceProcess.Repository, "docs"), "*.md", SearchOption.AllDirectories)
        .Select(file => Path.GetRelativePath(ServiceProcess.Repository, file))
        .Prepend("README.md");

    /// <summary>The page's only fenced block of this language that contains this text.</summary>
    public static string Block(string page, string language, string text) =>
        Assert.Single(Blocks(page, language), block => block.Contains(text, StringComparison.Ordinal));

    /// <summary>All of the page's fenced blocks of this language.</summary>
    public static IEnumerable<string> Blocks(string page, string language) =>
        FencedBlock.Matches(Read(page)).Where(block => block.Groups[1].Value == language).Select(block => block.Groups[2].Value);

    /// <summary>The rows of the page's only table whose first column has this header, each as its cells without backticks.</summary>
    public static IReadOnlyList<string[]> Table(string page, string firstHeader)
    {
        var table = Assert.Single(
            TableLines.Matches(FencedBlock.Replace(Read(page), "")), table => table.Value.StartsWith($"| {firstHeader} |", StringComparison.Ordinal));
        return [.. table.Value.TrimEnd('\n').Split('\n').Skip(2).Select(row => row[2..^2].Replace("`", "", StringComparison.Ordinal).Split(" | "))];
    }

    /// <summary>The options in the connection string for this host in docs/scaling.md.</summary>
    public static string ConnectionOptions(string host) =>
        Regex.Match(Block("docs/scaling.md", "sh", $"Host={host};"), "Host=[^;]+;(.+?);Database=platform").Groups[1].Value;

    private static string Read(string page) => File.ReadAllText(Path.Combine(ServiceProcess.Repository, page));

    [GeneratedRegex("^```(\\w*)\n(.*?)^```$", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex FencedBlock { get; }

    [GeneratedRegex(@"(?:^\|.*\|\n)+", RegexOptions.Multiline)]
    private static partial Regex TableLines { get; }
}
