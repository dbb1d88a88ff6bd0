using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Api.Hosting;

/// <summary>Lists in sections of <see cref="CalcomAccountsOptions"/>: the binder would take a list that is no list, or a misspelt one, for none.</summary>
internal static class SettingsList
{
    public delegate bool TryParse<T>(string text, out T value);

    /// <param name="section">The section, which has this one setting.</param>
    /// <param name="name">The list's name in it.</param>
    /// <param name="expected">What each of its values has to be, for a message.</param>
    /// <param name="tryParse">Reads a value.</param>
    /// <exception cref="StartupException">Something in the section makes no sense; the message names its key, and repeats no value.</exception>
    public static List<T> Read<T>(IConfigurationSection? section, string name, string expected, TryParse<T> tryParse)
    {
        var values = new List<T>();
        foreach (var setting in section?.GetChildren() ?? [])
        {
            var entries = setting.GetChildren().ToList();
            if (!setting.Key.Equals(name, StringComparison.OrdinalIgnoreCase))
            {
                throw new StartupException($"{setting.Path} is no setting; there is {section!.Path}:{name}");
            }

            if (!string.IsNullOrEmpty(setting.Value))
            {
                throw new StartupException($"{setting.Path} has to be a list, as in {setting.Path}:0");
            }

            foreach (var entry in entries)
            {
                values.Add(entry.Value is { } text && tryParse(text, out var value) ? value : throw new StartupException($"{entry.Path} has to be {expected}"));
            }
        }

        return string.IsNullOrEmpty(section?.Value) ? values : throw new StartupException($"{section.Path} is no setting; there is {section.Path}:{name}");
    }
}
