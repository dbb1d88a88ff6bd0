using System.Text.RegularExpressions;

namespace CalcomAccounts.Tests;

/// <summary>The README's own examples, so that they are run as they stand there.</summary>
internal static class Readme
{
    public static string Text { get; } = File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "README.md"));

    /// <summary>The only fenced block of this language that holds this text.</summary>
    public static string Block(string language, string text) => Assert.Single(
        Regex.Matches(Text, $@"^```{language}\n(.*?)^```$", RegexOptions.Multiline | RegexOptions.Singleline).Select(block => block.Groups[1].Value),
        block => block.Contains(text, StringComparison.Ordinal));

    /// <summary>What its connection string for this host sets, between the host and the database.</summary>
    public static string ConnectionOptions(string host) => Regex.Match(Text, $"Host={Regex.Escape(host)};(.+?);Database=platform").Groups[1].Value;
}
