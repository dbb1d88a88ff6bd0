namespace CalcomAccounts.Tests.Support.Processes;

/// <summary>Settings of the service as a process: environment variables and arguments.</summary>
internal static class ProcessSettings
{
    public const string AnyPort = "--urls=http://127.0.0.1:0";
    public const string Bearer = "Authentication__Schemes__Bearer__";

    /// <summary>A value that no message may repeat.</summary>
    public const string Secret = "not-to-be-seen";

    public static string SigningKey { get; } = Convert.ToBase64String(Tokens.Key);

    /// <summary>All that has to be set outside Development.</summary>
    public static Dictionary<string, string> Complete(TestDatabase database) => Complete(database.ServiceConnectionString);

    public static Dictionary<string, string> Complete(string connectionString) => new()
    {
        ["ConnectionStrings__CalcomAccounts"] = connectionString,
        [Bearer + "ValidIssuer"] = Tokens.Issuer,
        [Bearer + "ValidAudience"] = Tokens.Audience,
        [Bearer + "SigningKeys__0__Issuer"] = Tokens.Issuer,
        [Bearer + "SigningKeys__0__Value"] = SigningKey,
    };
}
