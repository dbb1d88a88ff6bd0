using System.Text.RegularExpressions;

namespace CalcomAccounts.Tests;

/// <summary>The README's own examples, so that they are run as they stand there.</summary>
internal static class Readme
{
    private static readonly string s_text = File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "README.md"));

    /// <summary>The only fenced block of this language.</summary>
    public static string Block(string language) =>
        Assert.Single(Regex.Matches(s_text, $@"^```{language}\n(.*?)^```$", RegexOptions.Multiline | RegexOptions.Singleline)).Groups[1].Value;
}
