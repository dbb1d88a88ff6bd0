using System.ComponentModel.DataAnnotations;
using CalcomAccounts.Infrastructure;

namespace CalcomAccounts.Api.Hosting;

/// <summary>The service's own settings, section <c>CalcomAccounts</c> of the configuration: docs/configuration.md.</summary>
internal sealed class CalcomAccountsOptions
{
    /// <summary>The section's name.</summary>
    public const string Section = "CalcomAccounts";

    /// <summary>Of <see cref="OrganizationClaimFormat"/>: some providers have ids of their own there.</summary>
    public const string IgnoreOthers = "ignore-others";

    // Read by TrustedIssuer.
    private const string Authorities = "Authorities";

    private const string OutOfRange = "{0} has to be a number from {1} to {2}";

    /// <summary>Within how many seconds each request is answered.</summary>
    [Range(1, 300, ErrorMessage = OutOfRange)]
    public int RequestTimeoutSeconds { get; set; } = 5;

    /// <summary>Within how many seconds the process ends after SIGTERM or SIGINT.</summary>
    [Range(1, 300, ErrorMessage = OutOfRange)]
    public int ShutdownTimeoutSeconds { get; set; } = 15;

    /// <summary>How many statements for lookups an instance has in flight.</summary>
    [Range(1, 64, ErrorMessage = OutOfRange)]
    public int MaxConcurrentStatements { get; set; } = 2;

    /// <summary>How many lookups may wait for a statement.</summary>
    [Range(1, 1_000_000, ErrorMessage = OutOfRange)]
    public int MaxQueuedLookups { get; set; } = 4096;

    /// <summary>Whether the tables are distributed over several servers by organization: docs/scaling.md.</summary>
    public bool Distributed { get; set; }

    /// <summary>The name of the claim that names the caller's organization, or the path to it.</summary>
    [Required(ErrorMessage = "{0} has to name a claim")]
    public string OrganizationClaim { get; set; } = "org_id";

    /// <summary>The name of the claim that names the caller, or the path to it.</summary>
    [Required(ErrorMessage = "{0} has to name a claim")]
    public string SubjectClaim { get; set; } = "sub";

    /// <summary>How an organization claim that is text but no UUID is read: as a reason to refuse the token, or as an absent one.</summary>
    [AllowedValues("uuid", IgnoreOthers, ErrorMessage = "{0} has to be uuid or ignore-others")]
    public string OrganizationClaimFormat { get; set; } = "uuid";

    /// <summary>The scopes that a token needs, separated by blanks; none where it is null.</summary>
    public string? RequiredScope { get; set; }

    /// <summary>The roles that a token needs, all of them.</summary>
    public IReadOnlyList<string> RequiredRoles { get; set; } = [];

    /// <summary>Whether a valid token is remembered for a minute at most.</summary>
    public bool TokenCache { get; set; } = true;

    /// <summary>The path under which the service is reached, as in <c>/calcom</c>. Probes ask for health without it.</summary>
    [RegularExpression(@"^(?!/health(/|$))(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+$", ErrorMessage = "{0} has to be a path as in /calcom, and not /health")]
    public string PathBase { get; set; } = "";

    /// <summary>Whose <c>X-Forwarded-</c> headers are heeded: see <see cref="Gateway"/>.</summary>
    public IConfigurationSection? ForwardedHeaders { get; set; }

    /// <summary>Which pages on other origins may read answers: see <see cref="Http.CrossOriginRequests"/>.</summary>
    public IConfigurationSection? Cors { get; set; }

    /// <summary>Read before anything is composed, so that a start fails for a setting alone.</summary>
    /// <exception cref="StartupException">A setting is unknown or makes no sense; the message names its key, and repeats no value.</exception>
    public static CalcomAccountsOptions Read(IConfiguration configuration)
    {
        var section = configuration.GetSection(Section);
        var known = typeof(CalcomAccountsOptions).GetProperties().Select(property => property.Name).Append(Authorities);
        if (section.GetChildren().Select(child => child.Key).Except(known, StringComparer.OrdinalIgnoreCase).FirstOrDefault() is { } unknown)
        {
            throw new StartupException($"{Section}:{unknown} is no setting; there are {string.Join(", ", known.Select(name => $"{Section}:{name}"))}");
        }

        // The binder would take one text for no list at all, and every token for one that needs no role.
        if (section[nameof(RequiredRoles)] is not null)
        {
            throw new StartupException($"{Section}:{nameof(RequiredRoles)} is a list: {Section}:{nameof(RequiredRoles)}:0 is its first");
        }

        var options = new CalcomAccountsOptions();
        try
        {
            section.Bind(options);
        }
        catch (InvalidOperationException exception)
        {
            throw new StartupException($"{Section} is not valid: {ServiceHost.Explain(exception, configuration)}", exception);
        }

        var results = new List<ValidationResult>();
        return Validator.TryValidateObject(options, new(options), results, validateAllProperties: true)
            ? options
            : throw new StartupException($"{Section}:{results[0].ErrorMessage}");
    }
}
