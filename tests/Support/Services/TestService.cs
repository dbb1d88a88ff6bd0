using System.Text;
using System.Text.Json;
using CalcomAccounts.Api.Hosting;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Logging;

namespace CalcomAccounts.Tests.Support.Services;

/// <summary>The service in this process on a free port, and a client that sends requests unchanged.</summary>
internal sealed class TestService : IAsyncDisposable
{
    private readonly WebApplication _app;
    private readonly HttpClient _client;

    private TestService(WebApplication app)
    {
        _app = app;
        _client = new HttpClient(new SocketsHttpHandler { AllowAutoRedirect = false, UseCookies = false, UseProxy = false });
    }

    public string Url => _app.Urls.First();

    public IEnumerable<string> Urls => _app.Urls;

    public IServiceProvider Services => _app.Services;

    /// <summary>Starts the service in Production on this database; further settings override the defaults.</summary>
    public static async Task<TestService> StartAsync(
        string connectionString, Dictionary<string, string?>? settings = null, Action<WebApplicationBuilder>? configure = null)
    {
        var all = new Dictionary<string, string?>
        {
            ["environment"] = "Production",
            ["urls"] = "http://127.0.0.1:0",
            ["Logging:LogLevel:Default"] = "Trace",
            ["Logging:LogLevel:Microsoft.AspNetCore"] = "Trace",
            ["Logging:LogLevel:Npgsql"] = "Trace",
            ["ConnectionStrings:CalcomAccounts"] = connectionString,
            ["Authentication:Schemes:Bearer:ValidIssuer"] = Tokens.Issuer,
            ["Authentication:Schemes:Bearer:ValidAudience"] = Tokens.Audience,
            ["Authentication:Schemes:Bearer:SigningKeys:0:Issuer"] = Tokens.Issuer,
            ["Authentication:Schemes:Bearer:SigningKeys:0:Value"] = Convert.ToBase64String(Tokens.Key),
        };
        foreach (var (key, value) in settings ?? [])
        {
            all[key] = value;
        }

        var builder = ServiceHost.CreateBuilder(
            [.. all.Where(setting => setting.Value is not null).Select(setting => $"--{setting.Key}={setting.Value}")]);
        builder.Logging.ClearProviders().AddProvider(LeakDetector.Instance);
        configure?.Invoke(builder);
        var service = new TestService(ServiceHost.Build(builder));
        await service._app.StartAsync();
        return service;
    }

    public Task<Answer> GetAccountAsync(Guid agentId, string? token, string query = "") =>
        SendAsync("GET", AccountPath(agentId.ToString()) + query, token);

    public Task<Answer> ExplainAccountAsync(Guid agentId, string? token, string query = "") =>
        SendAsync("GET", $"{AccountPath(agentId.ToString())}/explain{query}", token);

    public Task<Answer> GetAccountsAsync(IEnumerable<Guid> agentIds, string? token, string query = "") =>
        PostAccountsAsync(JsonSerializer.Serialize(new { agent_ids = agentIds }), token, query);

    public Task<Answer> PostAccountsAsync(string body, string? token, string query = "") =>
        SendAsync("POST", $"{AccountsPath}{query}", token, request => request.Content = new StringContent(body, Encoding.UTF8, "application/json"));

    public Task<Answer> ListAccountsAsync(string? token, string query = "") => SendAsync("GET", $"{AccountsPath}{query}", token);

    public const string AccountsPath = "/api/v1/calcom/agents/accounts";

    public static string AccountPath(string agentId) => $"/api/v1/calcom/agents/{agentId}/account";

    public async Task<Answer> SendAsync(
        string method, string target, string? token = null, Action<HttpRequestMessage>? configure = null)
    {
        // The client must not normalize the path.
        var uri = new Uri(Url + target, new UriCreationOptions { DangerousDisablePathAndQueryCanonicalization = true });
        using var request = new HttpRequestMessage(new HttpMethod(method), uri);
        if (token is not null)
        {
            request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {token}");
        }

        configure?.Invoke(request);
        using var response = await _client.SendAsync(request);
        return new Answer(
            (int)response.StatusCode,
            await response.Content.ReadAsStringAsync(),
            response.Headers.Concat(response.Content.Headers)
                .ToDictionary(header => header.Key, header => string.Join(", ", header.Value), StringComparer.OrdinalIgnoreCase));
    }

    /// <summary>Shuts down gracefully, as on SIGTERM; disposing alone does not.</summary>
    public Task StopAsync() => _app.StopAsync();

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app.DisposeAsync();
    }
}

internal sealed record Answer(int Status, string Body, IReadOnlyDictionary<string, string> Headers)
{
    public JsonElement Json => JsonDocument.Parse(Body).RootElement;

    public string? Header(string name) => Headers.GetValueOrDefault(name);
}
