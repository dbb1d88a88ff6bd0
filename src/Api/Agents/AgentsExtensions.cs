using CalcomAccounts.Application;
using Microsoft.AspNetCore.Mvc.ModelBinding;
using Microsoft.AspNetCore.Rewrite;

namespace CalcomAccounts.Api.Agents;

/// <summary>Composes the operations.</summary>
internal static class AgentsExtensions
{
    public static IServiceCollection AddAgents(this IServiceCollection services)
    {
        services.AddControllers(mvc =>
        {
            // Queries are bound by binders of their own, which have them judged by their validators. FluentValidation's own hook into MVC
            // is not used: it looks for attributes by reflection with each request, and its authors advise against it.
            mvc.ValueProviderFactories.Clear();
            mvc.ModelMetadataDetailsProviders.Add(new SuppressChildValidationMetadataProvider(typeof(GetAgentAccount)));
            mvc.ModelMetadataDetailsProviders.Add(new SuppressChildValidationMetadataProvider(typeof(GetAgentAccounts)));
            mvc.ModelMetadataDetailsProviders.Add(new SuppressChildValidationMetadataProvider(typeof(ListAgentAccounts)));
        });
        return services;
    }

    /// <summary>No route matches an empty segment; a blank one reaches the validator, as any other <c>agent_id</c> that is no UUID.</summary>
    public static IApplicationBuilder UseEmptyAgentId(this IApplicationBuilder app) =>
        app.UseWhen(context => context.Request.Path.Value!.Contains("//", StringComparison.Ordinal), empty => empty.UseRewriter(
            new RewriteOptions().AddRewrite("(?i)^(api/v1/calcom/agents/)(/account(?:/explain)?/?)$", "$1%20$2", skipRemainingRules: true)));
}
