using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.Loader;

namespace CalcomAccounts.Api;

/// <summary>
/// NSwag 14.8.0 was built against NJsonSchema.NewtonsoftJson 11.6.2, and 11.6.1 is what restores everywhere; the runtime
/// refuses the lower version unless told to take it. Delete this file once both packages agree.
/// </summary>
internal static class NewtonsoftSchemaResolver
{
    private const string AssemblyName = "NJsonSchema.NewtonsoftJson";

    [ModuleInitializer]
    internal static void Register() => AssemblyLoadContext.Default.Resolving += Resolve;

    private static Assembly? Resolve(AssemblyLoadContext context, AssemblyName requested) => requested.Name == AssemblyName
        ? context.LoadFromAssemblyPath(Path.Combine(AppContext.BaseDirectory, $"{AssemblyName}.dll"))
        : null;
}
