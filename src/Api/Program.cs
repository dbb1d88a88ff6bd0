using CalcomAccounts.Api.Cli;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Infrastructure;

try
{
    if (args.Any(arg => arg is "--help" or "-h" or "help"))
    {
        Console.WriteLine(Commands.Help);
        return 0;
    }

    if (args is ["--version"])
    {
        Console.WriteLine(ServiceHost.Version);
        return 0;
    }

    var (command, option, settings) = CommandLine.Parse(args, Commands.All);
    if (command is not null)
    {
        return await command.RunAsync(option, ServiceHost.CreateBuilder(settings).Configuration);
    }

    await ServiceHost.RunAsync(settings);
    return 0;
}
catch (StartupException exception)
{
    Console.Error.WriteLine($"calcom-accounts: {exception.Message.ReplaceLineEndings(" ")}");
    return 1;
}
