using System.Text.Json;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Mvc.ModelBinding;
using Microsoft.Net.Http.Headers;

namespace CalcomAccounts.Api.Agents;

// MVC's own binders would turn an empty org_id into an absent one, and drop all but the first.
internal sealed class GetAgentAccountBinder : IModelBinder
{
    public Task BindModelAsync(ModelBindingContext bindingContext)
    {
        var context = bindingContext.HttpContext;
        var scope = new OrganizationScope(context.Features.GetRequiredFeature<Caller>(), context.Request.Query["org_id"]);
        bindingContext.Result = ModelBindingResult.Success(new GetAgentAccount((string?)context.GetRouteValue("agent_id"), scope));
        return Task.CompletedTask;
    }
}

// MVC's own reader of bodies would say what it found wrong in words of its own, and repeat what was sent.
internal sealed class GetAgentAccountsBinder(LookupLimits limits) : IModelBinder
{
    private static readonly JsonDocumentOptions s_strict = new() { AllowDuplicateProperties = false };

    public async Task BindModelAsync(ModelBindingContext bindingContext)
    {
        var context = bindingContext.HttpContext;
        if (!MediaTypeHeaderValue.TryParse(context.Request.ContentType, out var type) || !type.MediaType.Equals("application/json", StringComparison.OrdinalIgnoreCase))
        {
            throw new BadHttpRequestException("The body is not application/json.", StatusCodes.Status415UnsupportedMediaType);
        }

        var (agentIds, orgIds) = await ReadBodyAsync(context);
        var scope = new OrganizationScope(context.Features.GetRequiredFeature<Caller>(), [.. context.Request.Query["org_id"], .. orgIds]);
        bindingContext.Result = ModelBindingResult.Success(new GetAgentAccounts(agentIds, scope));
    }

    /// <returns>No list where the body is not what it has to be; which of its elements are UUIDs is not judged here.</returns>
    private async Task<(List<string?>? AgentIds, List<string?> OrgIds)> ReadBodyAsync(HttpContext context)
    {
        // Leaves time for the answer where the body comes too slowly.
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted);
        timeout.CancelAfter(limits.RequestTimeout * 0.4);
        try
        {
            using var body = await JsonDocument.ParseAsync(context.Request.Body, s_strict, timeout.Token);
            return body.RootElement is { ValueKind: JsonValueKind.Object } root
                && root.EnumerateObject().All(member => member.Name is "agent_ids" or "org_id")
                && root.TryGetProperty("agent_ids", out var agentIds)
                && agentIds.ValueKind is JsonValueKind.Array
                ? ([.. agentIds.EnumerateArray().Select(TextOf)], OrgIdsOf(root))
                : (null, []);
        }
        catch (Exception exception) when (IsClientGone(exception, context.RequestAborted, timeout.Token))
        {
            // The exception handler answers 499 to what fails when the request is aborted, which Kestrel tells a moment later.
            context.Abort();
            await Task.Delay(Timeout.Infinite, context.RequestAborted);
            throw;
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException or IOException or OperationCanceledException)
        {
            // No JSON, a member given twice, a name that is no text, a malformed chunk, too long, or too slow.
            return (null, []);
        }
    }

    // Kestrel cancels a read without either token when it notices first while writing.
    private static bool IsClientGone(Exception exception, CancellationToken aborted, CancellationToken timeout) =>
        exception is ConnectionResetException
        || (exception is OperationCanceledException && (aborted.IsCancellationRequested || !timeout.IsCancellationRequested));

    // As a claim, a member that is JSON null is an absent one.
    private static List<string?> OrgIdsOf(JsonElement root) =>
        root.TryGetProperty("org_id", out var orgId) && orgId.ValueKind is not JsonValueKind.Null ? [TextOf(orgId)] : [];

    private static string? TextOf(JsonElement element)
    {
        try
        {
            return element.ValueKind is JsonValueKind.String ? element.GetString() : null;
        }
        catch (InvalidOperationException)
        {
            // An escape that is half a character.
            return null;
        }
    }
}
