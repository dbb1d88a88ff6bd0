using CalcomAccounts.Infrastructure;
using Microsoft.AspNetCore.HttpOverrides;
using IPNetwork = System.Net.IPNetwork;

namespace CalcomAccounts.Api.Hosting;

/// <summary>What a gateway in front of the service changes: the path that it is reached under, and what is told of the client.</summary>
internal static class Gateway
{
    /// <exception cref="StartupException">A network makes no sense.</exception>
    public static IServiceCollection AddGateway(this IServiceCollection services, CalcomAccountsOptions options)
    {
        var networks = SettingsList.Read<IPNetwork>(
            options.ForwardedHeaders, "KnownNetworks", "a network in CIDR notation, as in 10.0.0.0/8", IPNetwork.TryParse);

        return services.Configure<ForwardedHeadersOptions>(forwarded =>
        {
            forwarded.ForwardedHeaders = networks is [] ? ForwardedHeaders.None : ForwardedHeaders.All;

            // ASP.NET Core trusts loopback by default, and everybody where both lists are empty.
            forwarded.KnownProxies.Clear();
            forwarded.KnownIPNetworks.Clear();
            networks.ForEach(forwarded.KnownIPNetworks.Add);
        });
    }

    /// <summary>Has to come before whatever reads the path.</summary>
    public static void UseGateway(this WebApplication app, CalcomAccountsOptions options)
    {
        if (options.ForwardedHeaders?.GetChildren().Any() is true)
        {
            app.UseForwardedHeaders();
        }

        if (options.PathBase is "")
        {
            return;
        }

        // Without this what is outside of the path would be answered as if it were within.
        app.Use((context, next) =>
        {
            var path = context.Request.Path;
            if (path.StartsWithSegments(options.PathBase) || path.StartsWithSegments("/health"))
            {
                return next(context);
            }

            context.Response.StatusCode = StatusCodes.Status404NotFound;
            return Task.CompletedTask;
        });
        app.UsePathBase(options.PathBase);
    }
}
