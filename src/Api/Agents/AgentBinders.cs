using System.Text.Json;
using CalcomAccounts.Api.Authentication;
using CalcomAccounts.Application;
using CalcomAccounts.Infrastructure;
using FluentValidation;
using FluentValidation.AspNetCore;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Mvc.ModelBinding;
using Microsoft.Net.Http.Headers;

namespace CalcomAccounts.Api.Agents;

// MVC's own binders would turn an empty org_id into an absent one, and drop all but the first.
internal sealed class GetAgentAccountBinder(IValidator<GetAgentAccount> validator) : IModelBinder
{
    public Task BindModelAsync(ModelBindingContext bindingContext)
    {
        var context = bindingContext.HttpContext;
        var scope = new OrganizationScope(CallerClaims.ToCaller(context.User), context.Request.Query["org_id"]);
        bindingContext.Bind(new GetAgentAccount((string?)context.GetRouteValue("agent_id"), scope), validator);
        return Task.CompletedTask;
    }
}

internal sealed class ListAgentAccountsBinder(IValidator<ListAgentAccounts> validator) : IModelBinder
{
    public Task BindModelAsync(ModelBindingContext bindingContext)
    {
        var context = bindingContext.HttpContext;
        var scope = new OrganizationScope(CallerClaims.ToCaller(context.User), context.Request.Query["org_id"]);
        var parameters = context.Request.Query.ToDictionary(
            parameter => parameter.Key, IReadOnlyList<string?> (parameter) => parameter.Value, StringComparer.OrdinalIgnoreCase);
        bindingContext.Bind(new ListAgentAccounts(scope, parameters), validator);
        return Task.CompletedTask;
    }
}

// MVC's own reader of bodies would say what it found wrong in words of its own, and repeat what was sent.
internal sealed class GetAgentAccountsBinder(IValidator<GetAgentAccounts> validator, LookupOptions options) : IModelBinder
{
    public async Task BindModelAsync(ModelBindingContext bindingContext)
    {
        var context = bindingContext.HttpContext;
        if (!MediaTypeHeaderValue.TryParse(context.Request.ContentType, out var type)
            || !type.MediaType.Equals("application/json", StringComparison.OrdinalIgnoreCase)
            || context.Request.Headers.ContentEncoding.Any(coding => !"identity".Equals(coding, StringComparison.OrdinalIgnoreCase)))
        {
            throw new BadHttpRequestException("The body is not plain application/json.", StatusCodes.Status415UnsupportedMediaType);
        }

        // As a claim, a member that is JSON null is an absent one.
        var request = await ReadBodyAsync(context);
        var orgIds = context.Request.Query["org_id"];
        var scope = new OrganizationScope(CallerClaims.ToCaller(context.User), request?.OrgId is { } orgId ? [.. orgIds, orgId] : orgIds);
        bindingContext.Bind(new GetAgentAccounts(request?.AgentIds, scope), validator);
    }

    /// <returns>Null where the body is not what it has to be; which of its elements are UUIDs is for the validator to say.</returns>
    private async Task<GetAgentCalcomAccountsRequest?> ReadBodyAsync(HttpContext context)
    {
        // Leaves time for the answer where the body comes too slowly.
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted);
        timeout.CancelAfter(options.RequestTimeout * 0.4);
        try
        {
            return await JsonSerializer.DeserializeAsync(context.Request.Body, RequestJson.Default.GetAgentCalcomAccountsRequest, timeout.Token);
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
            // No JSON, an unknown member or one given twice, a name that is no text, a malformed chunk, too long, or too slow.
            return null;
        }
    }

    // Kestrel cancels a read without either token when it notices first while writing.
    private static bool IsClientGone(Exception exception, CancellationToken aborted, CancellationToken timeout) =>
        exception is ConnectionResetException
        || (exception is OperationCanceledException && (aborted.IsCancellationRequested || !timeout.IsCancellationRequested));
}

internal static class ModelBindingExtensions
{
    /// <summary>Binds a query, with what its validator finds wrong with it.</summary>
    public static void Bind<T>(this ModelBindingContext bindingContext, T query, IValidator<T> validator)
    {
        validator.Validate(query).AddToModelState(bindingContext.ModelState);
        bindingContext.Result = ModelBindingResult.Success(query);
    }
}
