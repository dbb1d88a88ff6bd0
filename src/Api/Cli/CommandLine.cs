using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Api.Cli;

/// <summary>What the program is started with.</summary>
/// <param name="Command">What to do; null is to serve.</param>
/// <param name="Option">The command's own option, or null.</param>
/// <param name="Settings">What the configuration reads.</param>
internal sealed record CommandLine(Command? Command, string? Option, string[] Settings)
{
    // A section's settings have a ':'; these have no section, and are read here, by ASP.NET Core, or by OpenTelemetry.
    private static readonly string[] s_settings =
    [
        "urls", "http_ports", "https_ports", "environment", "AllowedHosts",
    ];

    /// <exception cref="StartupException">An argument is neither a command, nor its option, nor a setting, which would be ignored.</exception>
    public static CommandLine Parse(string[] args, IReadOnlyList<Command> commands)
    {
        Command? command = null;
        string? option = null;
        var settings = new List<string>();
        for (var i = 0; i < args.Length; i++)
        {
            // What follows may be a secret, and so may whatever is no mere word.
            var name = args[i].Split('=')[0];
            if (IsSetting(name))
            {
                settings.Add(args[i]);
                if (name == args[i])
                {
                    settings.Add(++i < args.Length ? args[i] : throw new StartupException($"{name} lacks its value: see --help"));
                }
            }
            else if (command is null)
            {
                command = commands.FirstOrDefault(command => command.Name == args[i]) ?? throw new StartupException(name.StartsWith('-')
                    ? $"unknown option {Quote(name)}: see --help"
                    : $"unknown command {Quote(name)}; there are {string.Join(", ", commands.Select(command => $"'{command.Name}'"))}, and none runs the HTTP server: see --help");
            }
            else
            {
                option = args[i] == command.Option ? args[i] : throw new StartupException($"{command.Name} has no option {Quote(name)}: see --help");
            }
        }

        return new(command, option, [.. settings]);
    }

    private static string Quote(string name) =>
        name.All(character => char.IsAsciiLetterOrDigit(character) || character is '-' or '_') ? $"'{name}'" : "that is no single word, and so not repeated";

    private static bool IsSetting(string name) =>
        name.StartsWith("--", StringComparison.Ordinal)
        && (name.Contains(':') || name.StartsWith("--OTEL_", StringComparison.Ordinal) || s_settings.Contains(name[2..], StringComparer.OrdinalIgnoreCase));
}

/// <summary>Something that the program does but serve.</summary>
/// <param name="Name">The argument that asks for it.</param>
/// <param name="Option">The one option that it has, or null.</param>
/// <param name="Does">For <c>--help</c>.</param>
/// <param name="RunAsync">Does it, with the option, if it is there, and the configuration; returns the exit code.</param>
internal sealed record Command(string Name, string? Option, string Does, Func<string?, IConfiguration, Task<int>> RunAsync);
