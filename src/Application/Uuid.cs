using System.Diagnostics.CodeAnalysis;
using System.Text.RegularExpressions;

namespace CalcomAccounts.Application;

/// <summary>The only UUID form that path, query, body and claim accept: hyphenated (8-4-4-4-12), in any letter case.</summary>
public static partial class Uuid
{
    /// <summary>Whether <paramref name="text"/> is in that form, without anything around it.</summary>
    public static bool IsValid([NotNullWhen(true)] string? text) => text is not null && HyphenatedForm.IsMatch(text);

    /// <exception cref="FormatException"><paramref name="text"/> is not in that form.</exception>
    public static Guid Parse(string? text) =>
        IsValid(text) ? Guid.ParseExact(text, "D") : throw new FormatException("Not a UUID.");

    // Guid.ParseExact(…, "D") also accepts white space around, a leading '+' and '0x' parts. '$' would accept a final line feed.
    [GeneratedRegex(@"\A[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\z")]
    private static partial Regex HyphenatedForm { get; }
}
