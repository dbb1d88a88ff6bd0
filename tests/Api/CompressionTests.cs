using System.IO.Compression;
using System.Net.Http.Headers;
using System.Text;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/api.md: bodies are not compressed, and of what is answered only the OpenAPI page's scripts and styles are.</summary>
public sealed class CompressionTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private readonly Guid _org = Guid.NewGuid();

    [Theory]
    [InlineData("gzip")]
    [InlineData("br")]
    [InlineData("identity, gzip")]
    [InlineData("unheard-of")]
    public async Task Body_WithAContentEncoding_Is415InTheEnvelope_AfterTheToken(string coding)
    {
        var answer = await PostAsync(coding, Tokens.OfOrganization(_org));

        Assert.Equal(
            (415, """{"success":false,"message":"Content-Type must be application/json, and the body not compressed","code":"UNSUPPORTED_MEDIA_TYPE"}"""),
            (answer.Status, answer.Body));
        Assert.Equal(401, (await PostAsync(coding, token: null)).Status);
    }

    [Fact]
    public async Task Body_OfIdentity_IsRead() => Assert.Equal(200, (await PostAsync("Identity", Tokens.OfOrganization(_org))).Status);

    [Theory]
    [InlineData("/swagger/swagger-ui-bundle.js", "gzip", "gzip")]
    [InlineData("/swagger/swagger-ui-bundle.js", "gzip, br", "br")]
    [InlineData("/swagger/swagger-ui.css", "br", "br")]
    [InlineData("/swagger/swagger-ui.css", "", null)]
    [InlineData("/swagger/swagger-ui.css", "identity", null)]
    [InlineData("/swagger/favicon-32x32.png", "gzip, br", null)]
    [InlineData("/swagger/index.html", "gzip, br", null)]
    [InlineData("/swagger/v1/swagger.json", "gzip, br", null)]
    [InlineData("/api/v1/calcom/agents/42/account", "gzip, br", null)]
    [InlineData("/nowhere", "gzip, br", null)]
    [InlineData("/health/ready", "gzip, br", null)]
    public async Task Answer_IsCompressed_WhereItIsAScriptOrStyleOfThePage(string target, string accepted, string? coding)
    {
        var answer = await fixture.Service.SendAsync(
            "GET", target, Tokens.OfOrganization(_org), request => request.Headers.TryAddWithoutValidation("Accept-Encoding", accepted));

        Assert.Equal(coding, answer.Header("Content-Encoding"));
        Assert.True(coding is null || answer.Header("Vary") is "Accept-Encoding");
        Assert.True(coding is null || answer.Header("Cache-Control") is "public, max-age=3600");
    }

    [Fact]
    public async Task Bundle_Compressed_IsTheBundle()
    {
        using var client = new HttpClient();
        var plain = await client.GetByteArrayAsync($"{fixture.Service.Url}/swagger/swagger-ui-bundle.js");
        using var request = new HttpRequestMessage(HttpMethod.Get, $"{fixture.Service.Url}/swagger/swagger-ui-bundle.js");
        request.Headers.AcceptEncoding.Add(new StringWithQualityHeaderValue("gzip"));
        using var answer = await client.SendAsync(request);
        var compressed = await answer.Content.ReadAsByteArrayAsync();

        using var unpacked = new MemoryStream();
        await using (var gzip = new GZipStream(new MemoryStream(compressed), CompressionMode.Decompress))
        {
            await gzip.CopyToAsync(unpacked);
        }

        Assert.Equal(plain, unpacked.ToArray());
        Assert.InRange(compressed.Length, 1, plain.Length / 2);
    }

    private Task<Answer> PostAsync(string coding, string? token) => fixture.Service.SendAsync("POST", TestService.AccountsPath, token, request =>
    {
        request.Content = new StringContent($$"""{"agent_ids":["{{Guid.NewGuid()}}"]}""", Encoding.UTF8, "application/json");
        request.Content.Headers.TryAddWithoutValidation("Content-Encoding", coding);
    });
}
