namespace CalcomAccounts.Infrastructure.Development;

/// <summary>Where programs and users are looked for: this machine, or a folder that plays one.</summary>
/// <param name="Root">What the names of its files begin with; empty for this machine.</param>
/// <param name="Path">Folders of programs, separated by colons.</param>
/// <param name="IsPrivileged">Whether this process is root's.</param>
/// <param name="PostgresImage">The image to run in Docker; null for the default.</param>
internal sealed record PostgresLocator(string Root, string Path, bool IsPrivileged, string? PostgresImage)
{
    /// <summary>The variable of the environment that names <see cref="PostgresImage"/>.</summary>
    public const string PostgresImageVariable = "CALCOM_ACCOUNTS_POSTGRES_IMAGE";

    public static PostgresLocator This => new(
        "",
        Environment.GetEnvironmentVariable("PATH") ?? "",
        Environment.IsPrivilegedProcess,
        Environment.GetEnvironmentVariable(PostgresImageVariable));

    /// <summary>The first docker on <see cref="Path"/>; null where there is none.</summary>
    public string? Docker => FoldersOnPath.Select(folder => $"{folder}/docker").FirstOrDefault(File.Exists);

    private IEnumerable<string> FoldersOnPath => Path.Split(':', StringSplitOptions.RemoveEmptyEntries);

    /// <summary><see cref="Path"/>, then where Debian, Red Hat, Homebrew, Postgres.app and EDB's installer put PostgreSQL's programs.</summary>
    public IEnumerable<string> PostgresFolders()
    {
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

    /// <summary>PostgreSQL refuses to run as root: the words that run a command as its own user, or as nobody.</summary>
    /// <exception cref="StartupException">There is neither of them.</exception>
    public string[] UnprivilegedUser()
    {
        if (!IsPrivileged)
        {
            return [];
        }

        var users = File.ReadLines($"{Root}/etc/passwd").Select(line => line.Split(':')).ToLookup(fields => fields[0]);
        var user = users["postgres"].Concat(users["nobody"]).FirstOrDefault()
            ?? throw new StartupException("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as");
        return ["setpriv", "--reuid", user[2], "--regid", user[3], "--clear-groups", "--"];
    }
}
