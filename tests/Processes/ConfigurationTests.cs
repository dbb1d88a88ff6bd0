using System.Globalization;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Api.Cli;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Infrastructure;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging.Abstractions;
using Npgsql;

namespace CalcomAccounts.Tests.Processes;

/// <summary>docs/configuration.md: required settings, and the messages for missing and invalid ones.</summary>
public sealed class ConfigurationTests
{
    private const string Bearer = "Authentication:Schemes:Bearer:";
    private const string Secret = "not-to-be-seen";

    private static Dictionary<string, string?> Complete => new()
    {
        ["ConnectionStrings:CalcomAccounts"] = "Host=localhost",
        [Bearer + "ValidIssuer"] = Tokens.Issuer,
        [Bearer + "ValidAudience"] = Tokens.Audience,
        [Bearer + "SigningKeys:0:Issuer"] = Tokens.Issuer,
        [Bearer + "SigningKeys:0:Value"] = Convert.ToBase64String(Tokens.Key),
    };

    public static TheoryData<string, string> Missing => new()
    {
        { "ConnectionStrings:CalcomAccounts", "ConnectionStrings:CalcomAccounts" },
        { Bearer + "ValidIssuer", $"{Bearer}ValidIssuer" },
        { Bearer + "ValidAudience", $"{Bearer}ValidAudience" },
        { Bearer + "SigningKeys", $"{Bearer}Authority or {Bearer}SigningKeys" },
        { Bearer, $"{Bearer}ValidIssuer, {Bearer}ValidAudience, {Bearer}Authority or {Bearer}SigningKeys" },
        { "", $"ConnectionStrings:CalcomAccounts, {Bearer}ValidIssuer, {Bearer}ValidAudience, {Bearer}Authority or {Bearer}SigningKeys" },
    };

    [Theory]
    [MemberData(nameof(Missing))]
    public void MissingSettings_OutsideDevelopment_AreAllNamed(string removedPrefix, string missing)
    {
        foreach (var environment in new[] { "Production", "Staging" })
        {
            var settings = Complete.Where(setting => !setting.Key.StartsWith(removedPrefix, StringComparison.Ordinal)).ToDictionary();

            Assert.Equal($"not configured: {missing}; see --help", StartError(settings, environment));
        }
    }

    // An empty setting counts as missing.
    [Theory]
    [InlineData(Bearer + "ValidIssuer", "", $"not configured: {Bearer}ValidIssuer; see --help")]
    [InlineData(Bearer + "ValidAudience", "", $"not configured: {Bearer}ValidAudience; see --help")]
    [InlineData(Bearer + "ValidAudience", " ", $"not configured: {Bearer}ValidAudience; see --help")]
    [InlineData(Bearer + "SigningKeys:0:Value", "", $"{Bearer}SigningKeys:0:Value has to be the base64 of at least 32 bytes")]
    [InlineData(Bearer + "SigningKeys:0:Value", null, $"{Bearer}SigningKeys:0:Value has to be the base64 of at least 32 bytes")]
    [InlineData(Bearer + "SigningKeys:0:Value", "c2hvcnQ=", $"{Bearer}SigningKeys:0:Value has to be the base64 of at least 32 bytes")]
    [InlineData(Bearer + "SigningKeys:0:Value", $"{Secret}-however-long-it-may-be-made!", $"{Bearer}SigningKeys:0:Value has to be the base64 of at least 32 bytes")]
    [InlineData(Bearer + "SigningKeys:0:Issuer", "https://other.example", $"{Bearer}SigningKeys:0:Issuer is not among {Bearer}ValidIssuers")]
    [InlineData(Bearer + "Authority", "http://plain.example", "Authentication:Schemes:Bearer:Authority has to be an https URL, or Authentication:Schemes:Bearer:RequireHttpsMetadata false")]
    [InlineData(Bearer + "RequireHttpsMetadata", "perhaps", "Authentication:Schemes:Bearer is not valid: ")]
    [InlineData(Bearer + "BackchannelTimeout", "soon", "Authentication:Schemes:Bearer is not valid: ")]
    [InlineData(Bearer + "SaveToken", Secret, $"Authentication:Schemes:Bearer is not valid: String {Bearer}SaveToken was not recognized")]
    [InlineData("Kestrel:Limits:MaxRequestBodySize", Secret, "Kestrel:Limits is not valid: Failed to convert configuration value Kestrel:Limits:MaxRequestBodySize")]
    [InlineData("Kestrel:Limits:RequestHeadersTimeout", Secret, "Kestrel:Limits is not valid: Failed to convert configuration value Kestrel:Limits:RequestHeadersTimeout")]
    [InlineData("Kestrel:Limits:MaxConcurrentConnections", "-4", "Kestrel:Limits is not valid: Value must be null or a positive number")]
    [InlineData("Logging:LogLevel:Default", Secret, "the configuration is not valid: Configuration value Logging:LogLevel:Default")]
    [InlineData("ConnectionStrings:CalcomAccounts", "", "ConnectionStrings:CalcomAccounts has no Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Database=x;Password={Secret}", "ConnectionStrings:CalcomAccounts has no Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"postgres://user:{Secret}@db/platform", "ConnectionStrings:CalcomAccounts is not an Npgsql connection string")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db;Passwort={Secret}", "ConnectionStrings:CalcomAccounts is not an Npgsql connection string")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=user:{Secret}@db", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=user:{Secret}@127.0.0.1:5432", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", "Host=db:", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", "Host=db1:,db2", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", "Host=db;Port=99999", "ConnectionStrings:CalcomAccounts has an invalid Port")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db;Port={Secret}", "ConnectionStrings:CalcomAccounts is not an Npgsql connection string")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db;Target Session Attributes=prefer-standby;Password={Secret}", "ConnectionStrings:CalcomAccounts is not valid: Target Session Attributes")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db;Multiplexing=true;Pooling=false;Password={Secret}", "ConnectionStrings:CalcomAccounts is not valid: Pooling")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db;Minimum Pool Size=50;Password={Secret}", "ConnectionStrings:CalcomAccounts is not valid: ")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=127.0.0.1:99999;Password={Secret}", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db1,:5432;Password={Secret}", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db1,,db2;Password={Secret}", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=db:{Secret}", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("ConnectionStrings:CalcomAccounts", $"Host=user:{Secret}@db/platform", "ConnectionStrings:CalcomAccounts has an invalid Host")]
    [InlineData("CalcomAccounts:RequestTimeoutSeconds", "0", "CalcomAccounts:RequestTimeoutSeconds has to be a number from 1 to 300")]
    [InlineData("CalcomAccounts:RequestTimeoutSeconds", "301", "CalcomAccounts:RequestTimeoutSeconds has to be a number from 1 to 300")]
    [InlineData("CalcomAccounts:MaxConcurrentStatements", "0", "CalcomAccounts:MaxConcurrentStatements has to be a number from 1 to 64")]
    [InlineData("CalcomAccounts:MaxConcurrentStatements", "65", "CalcomAccounts:MaxConcurrentStatements has to be a number from 1 to 64")]
    [InlineData("CalcomAccounts:MaxQueuedLookups", "none", "CalcomAccounts is not valid: Failed to convert configuration value CalcomAccounts:MaxQueuedLookups at")]
    [InlineData("CalcomAccounts:TokenCache", "perhaps", "CalcomAccounts is not valid: Failed to convert configuration value CalcomAccounts:TokenCache at")]
    [InlineData("CalcomAccounts:ShutdownTimeoutSeconds", "soon", "CalcomAccounts is not valid: Failed to convert configuration value CalcomAccounts:ShutdownTimeoutSeconds at")]
    public void InvalidSetting_IsNamedWithoutItsValue(string setting, string? value, string expectedError)
    {
        var settings = Complete;
        settings[setting] = value;

        var message = StartError(settings);

        Assert.StartsWith(expectedError, message, StringComparison.Ordinal);
        Assert.DoesNotContain(Secret, message, StringComparison.Ordinal);
    }

    [Fact]
    public void DocumentedSettings_AreAcceptedAsArguments()
    {
        var settings = Docs.Table("docs/configuration.md", "key").Select(row => row[0]).ToList();

        Assert.Contains("CalcomAccounts:RequestTimeoutSeconds", settings);
        Assert.All(settings, setting =>
        {
            string[] arguments = [$"--{setting}=1", $"--{setting}", "1"];
            Assert.Equal(arguments, CommandLine.Parse(arguments, []).Settings);
        });
    }

    [Theory]
    [InlineData("Authority")]
    [InlineData("MetadataAddress")]
    public void Authority_IsSufficientUnlessEmpty(string setting)
    {
        var settings = new Dictionary<string, string?>
        {
            ["ConnectionStrings:CalcomAccounts"] = "Host=localhost",
            [Bearer + "ValidAudience"] = Tokens.Audience,
            [Bearer + setting] = "https://issuer.example",
        };
        Assert.Null(StartError(settings));

        settings[Bearer + setting] = "";
        Assert.Equal($"not configured: {Bearer}ValidIssuer, {Bearer}Authority or {Bearer}SigningKeys; see --help", StartError(settings));
    }

    [Theory]
    [InlineData("Host=/run/postgresql")]
    [InlineData("Host=@postgresql")]
    [InlineData("Host=::1")]
    [InlineData("Host=[::1]:5433")]
    [InlineData("Host=my_db.internal:5433")]
    [InlineData("Host=db1, 10.0.0.2:5433,fe80::1,/tmp;Target Session Attributes=prefer-standby;Load Balance Hosts=true")]
    public void EveryHostSpellingOfNpgsql_IsAccepted(string connectionString)
    {
        var settings = Complete;
        settings["ConnectionStrings:CalcomAccounts"] = connectionString;

        Assert.Null(StartError(settings));
    }

    [Fact]
    public void SeveralIssuersAndAudiences_AreAccepted()
    {
        var settings = Complete;
        settings.Remove(Bearer + "ValidIssuer");
        settings.Remove(Bearer + "ValidAudience");
        settings[Bearer + "ValidIssuers:0"] = "https://other.example";
        settings[Bearer + "ValidIssuers:1"] = Tokens.Issuer;
        settings[Bearer + "ValidAudiences:0"] = Tokens.Audience;

        Assert.Null(StartError(settings));
    }

    [Fact]
    public void AuthorityTimings_HaveTheDocumentedDefaultsAndCanBeConfigured()
    {
        var settings = Complete;
        settings[Bearer + "Authority"] = "https://issuer.example";
        using (var keys = PublishedKeysOf(settings))
        {
            Assert.Equal(Documented("AutomaticRefreshInterval"), keys.AutomaticRefreshInterval);
            Assert.Equal(Documented("RefreshInterval"), keys.RefreshInterval);
            Assert.Equal(Documented("BackchannelTimeout"), keys.Timeout);
        }

        settings[Bearer + "AutomaticRefreshInterval"] = "00:00:06";
        settings[Bearer + "RefreshInterval"] = "00:00:07";
        settings[Bearer + "BackchannelTimeout"] = "00:00:08";
        using (var keys = PublishedKeysOf(settings))
        {
            Assert.Equal((6, 7, 8), (keys.AutomaticRefreshInterval.TotalSeconds, keys.RefreshInterval.TotalSeconds, keys.Timeout.TotalSeconds));
        }

        static TimeSpan Documented(string setting) => TimeSpan.Parse(
            Assert.Single(Docs.Table("docs/configuration.md", "key"), row => row[0] == Bearer + setting)[2], CultureInfo.InvariantCulture);

        static PublishedKeys PublishedKeysOf(Dictionary<string, string?> settings) =>
            TrustedIssuer.ReadAll(new ConfigurationBuilder().AddInMemoryCollection(settings).Build(), NullLogger.Instance)[0].Published!;
    }

    [Fact]
    public async Task ConnectionString_HasTheDocumentedDefaults()
    {
        await using var app = Build(Complete);
        var connectionString = new NpgsqlConnectionStringBuilder(app.Services.GetRequiredService<NpgsqlDataSource>().ConnectionString);

        Assert.All(Docs.Table("docs/configuration.md", "keyword"), row => Assert.Equal(row[1], $"{connectionString[row[0]]}"));
    }

    [Fact]
    public async Task DataProtection_IsNotRegistered()
    {
        await using var app = Build(Complete);

        Assert.DoesNotContain(app.Services.GetServices<IHostedService>(), service => service.GetType().Name.Contains("DataProtection", StringComparison.Ordinal));
    }

    private static string? StartError(Dictionary<string, string?> settings, string environment = "Production") =>
        Record.Exception(() => Build(settings, environment)) is { } exception ? Assert.IsType<StartupException>(exception).Message : null;

    private static Microsoft.AspNetCore.Builder.WebApplication Build(Dictionary<string, string?> settings, string environment = "Production") =>
        ServiceHost.Build(ServiceHost.CreateBuilder(
            [$"--environment={environment}", .. settings.Where(setting => setting.Value is not null).Select(setting => $"--{setting.Key}={setting.Value}")]));
}
