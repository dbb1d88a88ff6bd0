using CalcomAccounts.Domain;
using FluentValidation;
using MediatR;
using Microsoft.Extensions.DependencyInjection;

namespace CalcomAccounts.Application;

/// <summary>Registers the use cases in the container.</summary>
public static class ApplicationServices
{
    /// <summary>Adds MediatR, the handlers and the validators. All are stateless, hence singletons.</summary>
    public static IServiceCollection AddApplication(this IServiceCollection services) => services
        .AddSingleton<ServiceFactory>(provider => provider.GetService!)
        .AddSingleton<IMediator, Mediator>()
        .AddSingleton<IRequestHandler<GetAgentAccount, Decision?>, GetAgentAccountHandler>()
        .AddSingleton<IRequestHandler<GetAgentAccounts, IReadOnlyList<Decision?>>, GetAgentAccountsHandler>()
        .AddSingleton<IRequestHandler<ListAgentAccounts, AgentAccountPage>, ListAgentAccountsHandler>()
        .AddSingleton<ResolutionMetrics>()
        .AddSingleton<IPipelineBehavior<GetAgentAccount, Decision?>>(provider => provider.GetRequiredService<ResolutionMetrics>())
        .AddSingleton<IPipelineBehavior<GetAgentAccounts, IReadOnlyList<Decision?>>>(provider => provider.GetRequiredService<ResolutionMetrics>())
        .AddSingleton<IPipelineBehavior<ListAgentAccounts, AgentAccountPage>>(provider => provider.GetRequiredService<ResolutionMetrics>())
        .AddSingleton<IValidator<GetAgentAccount>, GetAgentAccountValidator>()
        .AddSingleton<IValidator<GetAgentAccounts>, GetAgentAccountsValidator>()
        .AddSingleton<IValidator<ListAgentAccounts>, ListAgentAccountsValidator>();
}
