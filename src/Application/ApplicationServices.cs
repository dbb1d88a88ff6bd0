using CalcomAccounts.Domain;
using FluentValidation;
using MediatR;
using Microsoft.Extensions.DependencyInjection;

namespace CalcomAccounts.Application;

/// <summary>Registers the use cases.</summary>
public static class ApplicationServices
{
    /// <summary>Adds MediatR with every handler, and every validator. All of them are stateless, so one of each serves all requests.</summary>
    public static IServiceCollection AddApplication(this IServiceCollection services) => services
        .AddSingleton<ServiceFactory>(provider => provider.GetService!)
        .AddSingleton<IMediator, Mediator>()
        .AddSingleton<IRequestHandler<GetAgentAccount, Decision?>, GetAgentAccountHandler>()
        .AddSingleton<IRequestHandler<GetAgentAccounts, IReadOnlyList<Decision?>>, GetAgentAccountsHandler>()
        .AddSingleton<ResolutionMetrics>()
        .AddSingleton<IPipelineBehavior<GetAgentAccount, Decision?>>(provider => provider.GetRequiredService<ResolutionMetrics>())
        .AddSingleton<IPipelineBehavior<GetAgentAccounts, IReadOnlyList<Decision?>>>(provider => provider.GetRequiredService<ResolutionMetrics>())
        .AddSingleton<IValidator<GetAgentAccount>, GetAgentAccountValidator>()
        .AddSingleton<IValidator<GetAgentAccounts>, GetAgentAccountsValidator>();
}
