using System.Diagnostics;
using System.Net;
using System.Text.RegularExpressions;
using k8s;
using k8s.Models;

namespace CalcomAccounts.Tests.Repository;

/// <summary>The rendered manifests are consistent with each other, the image and the service. .ci/npm validates them against the schemas.</summary>
public sealed class KubernetesTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private const string Kubectl = "kubectl";

    [FactWith(Kubectl)]
    public async Task RenderedManifests_AreTheDeploymentAndTheMigration()
    {
        Assert.Equal(
            ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"],
            (await RenderAsync("")).Select(manifest => manifest.Kind).Order());
        Assert.Equal(["Job"], (await RenderAsync("migrate")).Select(manifest => manifest.Kind));
    }

    [FactWith(Kubectl)]
    public async Task NetworkPolicy_AllowsTheDocumentedPeersAndPorts()
    {
        var manifests = await RenderAsync("");
        var policy = Of<V1NetworkPolicy>(manifests).Spec;
        var documented = Docs.Table("docs/deployment.md", "direction").ToLookup(row => row[0]);
        var ports = Assert.Single(Of<V1Deployment>(manifests).Spec.Template.Spec.Containers).Ports.Select(port => port.Name);

        Assert.Equal(["Egress", "Ingress"], policy.PolicyTypes.Order());
        Assert.Equal(ports, policy.Ingress.Select(rule => Assert.Single(rule.Ports).Port.Value));
        Assert.Equal(documented["in"].Select(row => row[2]), ports);
        Assert.Equal(
            documented["in"].Select(row => Regex.Match(row[1], @"namespace (\w+)$") is { Success: true } match ? match.Groups[1].Value : null),
            policy.Ingress.Select(rule => Assert.Single(rule.FromProperty).NamespaceSelector.MatchLabels?["kubernetes.io/metadata.name"]));
        Assert.Equal(
            documented["out"].SelectMany(row => row[2].Split(", ")).Order(),
            Assert.Single(policy.Egress).Ports.Select(port => $"{port.Port.Value}/{port.Protocol ?? "TCP"}").Order());
    }

    [FactWith(Kubectl)]
    public async Task RolloutOrEviction_KeepsPodsAvailable()
    {
        var manifests = await RenderAsync("");
        var scaler = Of<V2HorizontalPodAutoscaler>(manifests).Spec;
        var rolling = Of<V1Deployment>(manifests).Spec.Strategy.RollingUpdate;
        var budget = Of<V1PodDisruptionBudget>(manifests).Spec;

        Assert.StartsWith(
            $"{scaler.MinReplicas} to {scaler.MaxReplicas},", Assert.Single(Docs.Table("docs/deployment.md", "resource"), row => row[0] is "pods")[1], StringComparison.Ordinal);
        Assert.True(scaler.MinReplicas > 1);
        Assert.Equal(("1", "0"), (rolling.MaxSurge.Value, rolling.MaxUnavailable.Value));
        Assert.Equal(("1", "AlwaysAllow"), (budget.MaxUnavailable.Value, budget.UnhealthyPodEvictionPolicy));
    }

    [FactWith(Kubectl)]
    public async Task Selectors_MatchOnlyThePods()
    {
        var manifests = await RenderAsync("");
        var pods = Of<V1Deployment>(manifests).Spec.Template;

        foreach (var selector in new[]
        {
            Of<V1Deployment>(manifests).Spec.Selector.MatchLabels,
            Of<V1Service>(manifests).Spec.Selector,
            Of<V1PodDisruptionBudget>(manifests).Spec.Selector.MatchLabels,
            Of<V1NetworkPolicy>(manifests).Spec.PodSelector.MatchLabels,
            Assert.Single(pods.Spec.TopologySpreadConstraints).LabelSelector.MatchLabels,
        })
        {
            Assert.Equal(pods.Metadata.Labels, selector);
        }

        Assert.NotEqual(pods.Metadata.Labels, Of<V1Job>(await RenderAsync("migrate")).Spec.Template.Metadata.Labels);
        var scaled = Of<V2HorizontalPodAutoscaler>(manifests).Spec.ScaleTargetRef;
        Assert.Equal(("apps/v1", "Deployment", Of<V1Deployment>(manifests).Metadata.Name), (scaled.ApiVersion, scaled.Kind, scaled.Name));
        Assert.Null(Of<V1Deployment>(manifests).Spec.Replicas);
    }

    [FactWith(Kubectl)]
    public async Task Pods_RunUnprivilegedAsTheUserOfTheImage()
    {
        var user = Regex.Match(await DockerfileAsync(), @"^USER (\d+):(\d+)$", RegexOptions.Multiline);
        foreach (var pod in new[] { Of<V1Deployment>(await RenderAsync("")).Spec.Template.Spec, Of<V1Job>(await RenderAsync("migrate")).Spec.Template.Spec })
        {
            var container = Assert.Single(pod.Containers);
            Assert.Equal((true, user.Groups[1].Value, user.Groups[2].Value), (pod.SecurityContext.RunAsNonRoot, $"{pod.SecurityContext.RunAsUser}", $"{pod.SecurityContext.RunAsGroup}"));
            Assert.Equal(("RuntimeDefault", false), (pod.SecurityContext.SeccompProfile.Type, pod.AutomountServiceAccountToken));
            Assert.Equal((false, true), (container.SecurityContext.AllowPrivilegeEscalation, container.SecurityContext.ReadOnlyRootFilesystem));
            Assert.Equal(["ALL"], container.SecurityContext.Capabilities.Drop);
            Assert.Equal(["cpu", "memory"], container.Resources.Requests.Keys.Order());
            Assert.Equal(["memory"], container.Resources.Limits.Keys);
        }
    }

    [FactWith(Kubectl)]
    public async Task Probes_UseExistingEndpointsAndPorts()
    {
        var manifests = await RenderAsync("");
        var pod = Of<V1Deployment>(manifests).Spec.Template.Spec;
        var container = Assert.Single(pod.Containers);
        var ports = container.Ports.ToDictionary(port => port.Name, port => $"{port.ContainerPort}");

        Assert.Equal(Regex.Match(await DockerfileAsync(), @"ASPNETCORE_HTTP_PORTS=(\d+)").Groups[1].Value, ports["http"]);
        Assert.Equal(container.Env.Single(variable => variable.Name is "OTEL_EXPORTER_PROMETHEUS_PORT").Value, ports["metrics"]);
        Assert.Equal(("true", ports["metrics"]), (
            Of<V1Deployment>(manifests).Spec.Template.Metadata.Annotations["prometheus.io/scrape"], Of<V1Deployment>(manifests).Spec.Template.Metadata.Annotations["prometheus.io/port"]));
        Assert.Equal("http", Assert.Single(Of<V1Service>(manifests).Spec.Ports).TargetPort.Value);
        foreach (var (probe, path) in new[] { (container.StartupProbe, "live"), (container.LivenessProbe, "live"), (container.ReadinessProbe, "ready") })
        {
            Assert.Equal(("http", $"/health/{path}"), (probe.HttpGet.Port.Value, probe.HttpGet.Path));
            Assert.Equal(200, (await fixture.Service.SendAsync("GET", probe.HttpGet.Path)).Status);
        }

        // Readiness answers within 2 seconds; shutdown takes up to 15 seconds after the preStop hook.
        Assert.True(container.ReadinessProbe.TimeoutSeconds > 2);
        Assert.InRange(container.Lifecycle.PreStop.Sleep.Seconds, 5, pod.TerminationGracePeriodSeconds!.Value - 16);
    }

    [FactWith(Kubectl)]
    public async Task Service_WithSettingsOfTheManifests_BecomesReady()
    {
        var manifests = await RenderAsync("");
        var container = Assert.Single(Of<V1Deployment>(manifests).Spec.Template.Spec.Containers);
        Assert.Equal([Of<V1ConfigMap>(manifests).Metadata.Name, "calcom-accounts"], container.EnvFrom.Select(from => from.ConfigMapRef?.Name ?? from.SecretRef.Name));
        var metrics = $"{PostgresServer.FreePort()}";
        await using var authority = await TestAuthority.StartAsync();
        using var process = ServiceProcess.Start(
            ["--urls=http://127.0.0.1:0"],
            new(Of<V1ConfigMap>(manifests).Data.Concat(container.Env.Select(variable => KeyValuePair.Create(variable.Name, variable.Value))))
            {
                ["ConnectionStrings__CalcomAccounts"] = fixture.Tables.ServiceConnectionString,
                ["Authentication__Schemes__Bearer__Authority"] = authority.Issuer,
                ["Authentication__Schemes__Bearer__RequireHttpsMetadata"] = "false",
                ["OTEL_EXPORTER_PROMETHEUS_PORT"] = metrics,
            });
        var url = await process.WaitForUrlAsync();
        using var client = new HttpClient();

        await ServiceProcess.WaitUntilReadyAsync(url);
        Assert.Equal(HttpStatusCode.OK, (await client.GetAsync(new Uri($"http://127.0.0.1:{metrics}/metrics"))).StatusCode);
    }

    [FactWith(Kubectl)]
    public async Task MigrationJob_MigratesADatabase()
    {
        var job = Of<V1Job>(await RenderAsync("migrate"));
        var container = Assert.Single(job.Spec.Template.Spec.Containers);
        using var migrate = ServiceProcess.Start([.. container.Args], new() { ["ConnectionStrings__CalcomAccounts"] = await fixture.Server.CreateDatabaseAsync() });

        Assert.Equal((0, ""), (await migrate.WaitForExitAsync(), migrate.Errors));
        Assert.StartsWith("applied ", migrate.Output, StringComparison.Ordinal);
        Assert.Equal("calcom-accounts-owner", Assert.Single(container.EnvFrom).SecretRef.Name);
    }

    private static T Of<T>(IEnumerable<IKubernetesObject> manifests) => Assert.Single(manifests.OfType<T>());

    private static Task<string> DockerfileAsync() => File.ReadAllTextAsync(Path.Combine(ServiceProcess.Repository, "Dockerfile"));

    // Strict parsing: an unknown field is an error.
    private static async Task<IReadOnlyList<IKubernetesObject>> RenderAsync(string folder)
    {
        using var kubectl = Process.Start(new ProcessStartInfo(Kubectl, ["kustomize", Path.Combine(ServiceProcess.Repository, "deploy", "kubernetes", folder)])
        {
            RedirectStandardOutput = true,
        })!;
        var yaml = await kubectl.StandardOutput.ReadToEndAsync();
        await kubectl.WaitForExitAsync();
        Assert.Equal(0, kubectl.ExitCode);
        return [.. KubernetesYaml.LoadAllFromString(yaml, strict: true).Cast<IKubernetesObject>()];
    }
}
