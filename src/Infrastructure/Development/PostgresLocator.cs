namespace CalcomAccounts.Infrastructure.Development;

/// <summary>Finds PostgreSQL's programs, Docker, and a user to run PostgreSQL as. Tests let it look into a folder of theirs.</summary>
/// <param name="Root">The folder that stands for <c>/</c>; empty for the real one.</param>
/// <param name="Path">As the environment variable <c>PATH</c>.</param>
/// <param name="IsPrivileged">Whether this process runs as root.</param>
/// <param name="PostgresImage">The image to run in Docker; null for the default.</param>
/// <param name="PostgresPrograms">The folder of PostgreSQL's programs; null for the newest that are found.</param>
internal sealed record PostgresLocator(string Root, string Path, bool IsPrivileged, string? PostgresImage, string? PostgresPrograms)
{
    /// <summary>The environment variable of <see cref="PostgresImage"/>.</summary>
    public const string PostgresImageVariable = "CALCOM_ACCOUNTS_POSTGRES_IMAGE";

    /// <summary>The environment variable of <see cref="PostgresPrograms"/>.</summary>
    public const string PostgresProgramsVariable = "CALCOM_ACCOUNTS_POSTGRES_PROGRAMS";

    public static PostgresLocator ThisMachine => new(
        "",
        Environment.GetEnvironmentVariable("PATH") ?? "",
        Environment.IsPrivilegedProcess,
        Environment.GetEnvironmentVariable(PostgresImageVariable),
        Environment.GetEnvironmentVariable(PostgresProgramsVariable));

    /// <summary>The path of the <c>docker</c> program; null if there is none.</summary>
    public string? Docker => FoldersOnPath.Select(folder => $"{folder}/docker").FirstOrDefault(File.Exists);

    private IEnumerable<string> FoldersOnPath => Path.Split(':', StringSplitOptions.RemoveEmptyEntries);

    /// <summary>The chosen folder alone; otherwise <see cref="Path"/>, then where Debian, Red Hat, Homebrew, Postgres.app and EDB's installer put PostgreSQL's programs.</summary>
    public IEnumerable<string> PostgresFolders()
    {
        if (PostgresPrograms is not null)
        {
            return [PostgresPrograms];
        }

        (string Parent, string Pattern)[] places =
        [
            ("/usr/lib/postgresql", "*"), ("/usr", "pgsql-*"), ("/opt/homebrew/opt", "postgresql@*"),
            ("/usr/local/opt", "postgresql@*"), ("/Applications/Postgres.app/Contents/Versions", "*"), ("/Library/PostgreSQL", "*"),
        ];
        return FoldersOnPath.Concat(places
            .Where(place => Directory.Exists(Root + place.Parent))
            .SelectMany(place => Directory.EnumerateDirectories(Root + place.Parent, place.Pattern))
            .Select(folder => $"{folder}/bin"));
    }

    /// <summary>
    /// What to put before a command so that it runs as the user postgres or nobody, because PostgreSQL refuses to run as root; empty for
    /// any other user.
    /// </summary>
    /// <exception cref="StartupException">Neither user exists.</exception>
    public string[] UnprivilegedCommandPrefix()
    {
        if (!IsPrivileged)
        {
            return [];
        }

        var users = File.ReadLines($"{Root}/etc/passwd").Select(line => line.Split(':')).ToLookup(fields => fields[0]);
        var user = users["postgres"].Concat(users["nobody"]).FirstOrDefault()
            ?? throw new StartupException("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody to run it as");
        return ["setpriv", "--reuid", user[2], "--regid", user[3], "--clear-groups", "--"];
    }
}
