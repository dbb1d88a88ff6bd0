using System.Text.Json.Nodes;
using System.Xml.Linq;

namespace CalcomAccounts.Tests.Repository;

/// <summary>The licences of all packages, direct and transitive, including those of the tests.</summary>
public sealed class SupplyChainTests
{
    private static readonly string[] s_allowed = ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "PostgreSQL"];

    // Packages without licence expressions, whose files are Apache-2.0 or MIT for these versions.
    private static readonly Dictionary<string, string> s_read = new()
    {
        ["BitFaster.Caching/2.6.1"] = "LICENSE",
        ["MediatR/5.1.0"] = "https://github.com/jbogard/MediatR/blob/master/LICENSE",
        ["CommandLineParser/2.9.1"] = "License.md",
        ["Microsoft.DotNet.PlatformAbstractions/3.1.6"] = "LICENSE.TXT",
    };

    [Fact]
    public void EveryPackage_HasAnAllowedLicence()
    {
        var licences = Packages().ToDictionary(package => package.Id, Licence);

        Assert.Contains("Npgsql/", string.Concat(licences.Keys), StringComparison.Ordinal);
        Assert.DoesNotContain(licences, package => !s_allowed.Contains(package.Value) && s_read.GetValueOrDefault(package.Key) != package.Value);
    }

    private static IEnumerable<(string Id, string Folder)> Packages()
    {
        // These two projects reference all packages of the service, and their own.
        return PackagesOf("tests").Union(PackagesOf("benchmarks/Comparison"));
    }

    private static IEnumerable<(string Id, string Folder)> PackagesOf(string project)
    {
        var assets = JsonNode.Parse(File.ReadAllText(Path.Combine(ServiceProcess.Repository, project, "obj", "project.assets.json")))!;
        var root = assets["packageFolders"]!.AsObject().First().Key;
        return from library in assets["libraries"]!.AsObject()
               where library.Value!["type"]!.GetValue<string>() is "package"
               select (library.Key, Path.Combine(root, library.Value!["path"]!.GetValue<string>()));
    }

    private static string Licence((string Id, string Folder) package)
    {
        var metadata = XDocument.Load(Assert.Single(Directory.GetFiles(package.Folder, "*.nuspec"))).Root!.Elements().First();
        string? Value(string name) => metadata.Elements().FirstOrDefault(element => element.Name.LocalName == name)?.Value;
        return Value("license") ?? Value("licenseUrl") ?? "none";
    }
}
