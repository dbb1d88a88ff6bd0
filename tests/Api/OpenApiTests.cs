using System.Text.Json.Nodes;
using YamlDotNet.RepresentationModel;

namespace CalcomAccounts.Tests.Api;

/// <summary>The served OpenAPI document equals the contract's, apart from added descriptions and operations.</summary>
public sealed class OpenApiTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    [Fact]
    public async Task ServedDocument_EqualsTheContract()
    {
        var served = await GetDocumentAsync();
        var contract = ReadContract();

        // Operations that are not in the contract have a test of their own.
        var operations = served["paths"]!.AsObject();
        Assert.Equal(
            ["/api/v1/calcom/agents/{agent_id}/account", "/api/v1/calcom/agents/{agent_id}/account/explain", "/api/v1/calcom/agents/accounts"],
            operations.Select(path => path.Key));
        operations.Remove("/api/v1/calcom/agents/{agent_id}/account/explain");
        operations.Remove("/api/v1/calcom/agents/accounts");
        var schemas = served["components"]!["schemas"]!.AsObject();
        foreach (var added in new[] { "ExplainAgentCalcomAccountResponse", "AgentCalcomExplanationData", "CalcomCandidateData", "GetAgentCalcomAccountsResponse", "AgentCalcomAccountsData", "AgentCalcomAccountData", "NullableAgentCalcomEffectiveAccountData", "GetAgentCalcomAccountsRequest", "ListAgentCalcomAccountsResponse", "AgentCalcomAccountPageData", "ListedAgentCalcomAccountData" })
        {
            Assert.True(schemas.Remove(added), added);
        }

        // The contract's other tags have no operation here, so the page would show empty sections.
        contract["tags"] = new JsonArray(new JsonObject { ["name"] = "CalComService" });

        // The version depends on the generator, and the servers have a test of their own.
        foreach (var document in new[] { served, contract })
        {
            document.Remove("openapi");
            document.Remove("servers");
        }

        Assert.Equal("", string.Join('\n', Differences("", contract, served)));
    }

    [Theory]
    [InlineData("/api/v1/calcom/agents/{agent_id}/account/explain", "get", "agent_id, org_id", "200, 400, 401, 403, 404, 429, 500")]
    [InlineData("/api/v1/calcom/agents/accounts", "post", "org_id", "200, 400, 401, 403, 415, 429, 500")]
    [InlineData("/api/v1/calcom/agents/accounts", "get", "org_id, connected, type, status, calcom_account_id, limit, after", "200, 400, 401, 403, 429, 500")]
    public async Task OperationsBeyondTheContract_AreDocumented(string path, string method, string parameters, string statuses)
    {
        var document = await GetDocumentAsync();
        var operation = document["paths"]![path]!.AsObject()[method]!;

        Assert.Equal(parameters, string.Join(", ", operation["parameters"]!.AsArray().Select(parameter => parameter!["name"]!.GetValue<string>())));
        Assert.Equal(statuses, string.Join(", ", operation["responses"]!.AsObject().Select(response => response.Key)));
        Assert.Equal("""[{"BearerAuth":[]}]""", operation["security"]!.ToJsonString());
        Assert.All(operation["responses"]!.AsObject(), response => Assert.NotNull(response.Value!["content"]!["application/json"]!["example"]));
        if (operation["requestBody"] is { } body)
        {
            Assert.Equal("#/components/schemas/GetAgentCalcomAccountsRequest", body["content"]!["application/json"]!["schema"]!["$ref"]!.GetValue<string>());
            var agentIds = document["components"]!["schemas"]!["GetAgentCalcomAccountsRequest"]!["properties"]!["agent_ids"]!;
            Assert.Equal((1, 100), (agentIds["minItems"]!.GetValue<int>(), agentIds["maxItems"]!.GetValue<int>()));
        }
    }

    [Fact]
    public async Task CommittedDocument_EqualsTheServedOne()
    {
        var served = (await fixture.Service.SendAsync("GET", "/swagger/v1/swagger.json")).Body;

        Assert.True(
            await File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "src", "Api", "OpenApi", "openapi.json")) == served,
            "dotnet run --project src/Api, and: curl --output src/Api/OpenApi/openapi.json http://localhost:5000/swagger/v1/swagger.json");
    }

    [Fact]
    public async Task Servers_WhateverHostIsAsked_BeginWithTheOneThatAnswers()
    {
        var servers = (await GetDocumentAsync("elsewhere.example"))["servers"]!.AsArray();

        Assert.Equal(["/", "https://api.ravan.ai"], servers.Select(server => server!["url"]!.GetValue<string>()));
    }

    [Fact]
    public async Task SwaggerPage_IsServed()
    {
        var redirect = await fixture.Service.SendAsync("GET", "/swagger");
        var page = await fixture.Service.SendAsync("GET", redirect.Header("Location")!);

        Assert.Equal(200, page.Status);
        Assert.Contains("/swagger/v1/swagger.json", page.Body, StringComparison.Ordinal);
    }

    [Fact]
    public async Task InvalidRangeOfSwaggerAsset_Returns416InTheErrorEnvelope()
    {
        var answer = await fixture.Service.SendAsync("GET", "/swagger/swagger-ui.css", configure: request => request.Headers.Range = new(99_999_999, null));

        Assert.Equal((416, """{"success":false,"message":"The request is not valid","code":"INVALID_REQUEST"}"""), (answer.Status, answer.Body));
    }

    private async Task<JsonObject> GetDocumentAsync(string? host = null)
    {
        var answer = await fixture.Service.SendAsync("GET", "/swagger/v1/swagger.json", configure: request => request.Headers.Host = host);
        Assert.Equal((200, "application/json; charset=utf-8"), (answer.Status, answer.Header("Content-Type")));
        return JsonNode.Parse(answer.Body)!.AsObject();
    }

    private static JsonObject ReadContract()
    {
        var yaml = new YamlStream();
        yaml.Load(new StringReader(File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "Api", "openapi.yaml"))));
        return (JsonObject)ToJson(yaml.Documents[0].RootNode)!;
    }

    private static JsonNode? ToJson(YamlNode node) => node switch
    {
        YamlMappingNode mapping => new JsonObject(mapping.Select(entry => KeyValuePair.Create(((YamlScalarNode)entry.Key).Value!, ToJson(entry.Value)))),
        YamlSequenceNode sequence => new JsonArray([.. sequence.Select(ToJson)]),
        YamlScalarNode { Style: YamlDotNet.Core.ScalarStyle.Plain, Value: "true" or "false" } scalar => scalar.Value is "true",
        YamlScalarNode scalar => scalar.Value,
        _ => throw new NotSupportedException(node.GetType().Name),
    };

    private static IEnumerable<string> Differences(string path, JsonNode? contract, JsonNode? served)
    {
        switch (contract, served)
        {
            case (JsonObject expected, JsonObject actual):
                foreach (var (key, value) in expected)
                {
                    foreach (var difference in Differences($"{path}/{key}", value, actual[key]))
                    {
                        yield return difference;
                    }
                }

                foreach (var key in actual.Select(entry => entry.Key).Where(key => !expected.ContainsKey(key) && key is not "description"))
                {
                    yield return $"{path}/{key} is not in the contract";
                }

                break;
            case (JsonArray expected, JsonArray actual) when expected.Count == actual.Count:
                for (var i = 0; i < expected.Count; i++)
                {
                    foreach (var difference in Differences($"{path}/{i}", expected[i], actual[i]))
                    {
                        yield return difference;
                    }
                }

                break;
            case var _ when !JsonNode.DeepEquals(contract, served):
                yield return $"{path} is {served?.ToJsonString() ?? "absent"}, and {contract?.ToJsonString()} in the contract";
                break;
        }
    }
}
