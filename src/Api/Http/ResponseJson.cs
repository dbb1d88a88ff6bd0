using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using CalcomAccounts.Api.Agents;
using CalcomAccounts.Infrastructure.Diagnostics;
using Microsoft.AspNetCore.Mvc;

namespace CalcomAccounts.Api.Http;

/// <summary>How answers are written: snake_case, no nulls, text as it is (the type and nosniff keep browsers from reading HTML in it).</summary>
[JsonSerializable(typeof(GetAgentCalcomAccountResponse))]
[JsonSerializable(typeof(ExplainAgentCalcomAccountResponse))]
[JsonSerializable(typeof(GetAgentCalcomAccountsResponse))]
[JsonSerializable(typeof(ListAgentCalcomAccountsResponse))]
[JsonSerializable(typeof(ErrorResponse))]
[JsonSerializable(typeof(UnauthorizedResponse))]
[JsonSerializable(typeof(DatabaseReport))]
internal sealed partial class ResponseJson : JsonSerializerContext
{
    public static ResponseJson Context { get; } = new(new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    });

    /// <summary>Writes a body whose length is known, so that it leaves together with its head.</summary>
    public static async Task WriteAsync(HttpResponse response, object body)
    {
        var json = JsonSerializer.SerializeToUtf8Bytes(body, body.GetType(), Context);
        response.ContentType = "application/json; charset=utf-8";
        response.ContentLength = json.Length;
        await response.BodyWriter.WriteAsync(json, response.HttpContext.RequestAborted);
    }
}

/// <summary>An action's answer in JSON, whatever the request accepts.</summary>
internal sealed class JsonAnswer(int status, object body) : ActionResult
{
    public override Task ExecuteResultAsync(ActionContext context)
    {
        context.HttpContext.Response.StatusCode = status;
        return ResponseJson.WriteAsync(context.HttpContext.Response, body);
    }
}
