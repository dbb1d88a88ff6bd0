using System.Diagnostics.CodeAnalysis;
using System.Text.RegularExpressions;

namespace CalcomAccounts.Application;

/// <summary>The one UUID form that path, query and claim accept: hyphenated 8-4-4-4-12, any letter case, nothing around it.</summary>
public static partial class Uuid
{
    /// <summary>Whether <paramref name="text"/> is a UUID and nothing else.</summary>
    public static bool IsValid([NotNullWhen(true)] string? text) => text is not null && HyphenatedForm.IsMatch(text);

    /// <summary>The UUID that <paramref name="text"/> is.</summary>
    /// <exception cref="FormatException"><paramref name="text"/> is not a UUID.</exception>
    public static Guid Parse(string? text) =>
        IsValid(text) ? Guid.ParseExact(text, "D") : throw new FormatException("Not a UUID.");

    // Guid's own "D" accepts white space around, a leading '+' and '0x' parts; \z because '$' lets a line feed through.
    [GeneratedRegex(@"\A[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\z")]
    private static partial Regex HyphenatedForm { get; }
}
