using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace CalcomAccounts.Tests.Api;

/// <summary>docs/deployment.md: HTTP/2 without TLS, with prior knowledge.</summary>
public sealed class Http2Tests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    private readonly Guid _org = Guid.NewGuid();

    [Fact]
    public async Task Requests_OnOneHttp2Connection_AreAnsweredTogether()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        await using var service = await StartAsync();
        var connections = 0;
        using var client = Client(() => connections++);

        // More than an HTTP/1.1 connection may pipeline, several times over.
        for (var round = 0; round < 5; round++)
        {
            var answers = await Task.WhenAll(Enumerable.Range(0, 90).Select(_ => SendAsync(client, service, HttpMethod.Get, TestService.AccountPath($"{agent}"))));
            Assert.All(answers, answer => Assert.Equal((HttpStatusCode.OK, HttpVersion.Version20), answer));
        }

        var list = new StringContent($$"""{"agent_ids":["{{agent}}"]}""", Encoding.UTF8, "application/json");
        Assert.Equal((HttpStatusCode.OK, HttpVersion.Version20), await SendAsync(client, service, HttpMethod.Post, TestService.AccountsPath, list));
        Assert.Equal(1, connections);
    }

    [Fact]
    public async Task LongHeads_OnHttp2_AreAnswered_AndTheConnectionGoesOn()
    {
        await using var service = await StartAsync();
        var connections = 0;
        using var client = Client(() => connections++);

        for (var i = 0; i < 20; i++)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, service.Url + "/health/live")
            {
                Version = HttpVersion.Version20,
                VersionPolicy = HttpVersionPolicy.RequestVersionExact,
                Headers = { { "X-Long", new string('x', 16_000) } },
            };
            Assert.Equal(HttpStatusCode.OK, (await client.SendAsync(request)).StatusCode);
        }

        Assert.InRange(connections, 1, 2);
    }

    [Fact]
    public async Task GracefulShutdown_UnderHttp2Load_LosesNoRequest_AndEnds()
    {
        var agent = await fixture.Tables.AddAgentAsync(_org);
        await using var service = await StartAsync();
        var connections = 0;
        using var client = Client(() => connections++);
        using var stopping = new CancellationTokenSource();
        var statuses = new ConcurrentBag<HttpStatusCode>();
        var refused = 0;
        var load = Enumerable.Range(0, 16).Select(_ => Task.Run(async () =>
        {
            while (refused is 0)
            {
                try
                {
                    statuses.Add((await SendAsync(client, service, HttpMethod.Get, TestService.AccountPath($"{agent}"))).Status);
                }
                catch (HttpRequestException exception) when (exception.InnerException is SocketException { SocketErrorCode: SocketError.ConnectionRefused })
                {
                    Interlocked.Increment(ref refused);
                }

                if (stopping.IsCancellationRequested)
                {
                    await Task.Delay(20);
                }
            }
        })).ToList();
        for (var deadline = DateTime.UtcNow.AddSeconds(10); statuses.Count < 200 && DateTime.UtcNow < deadline;)
        {
            await Task.Delay(20);
        }

        // As SIGTERM does.
        service.Services.GetRequiredService<IHostApplicationLifetime>().StopApplication();
        await stopping.CancelAsync();
        await service.StopAsync();
        await Task.WhenAll(load).WaitAsync(TimeSpan.FromSeconds(10));

        // GOAWAY: while the service waits for load balancers to look elsewhere, each answer asks for another connection.
        Assert.True(refused > 0 && connections > 1, $"{refused} refused, {connections} connections");
        Assert.All(statuses, status => Assert.Equal(HttpStatusCode.OK, status));
    }

    [Fact]
    public async Task Http11_OnAnEndpointOfHttp2Alone_IsRefused_AndBothMayHaveAnEndpoint()
    {
        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, new()
        {
            ["urls"] = null,
            ["Kestrel:Endpoints:Http:Url"] = "http://127.0.0.1:0",
            ["Kestrel:Endpoints:Http2:Url"] = "http://127.0.0.1:0",
            ["Kestrel:Endpoints:Http2:Protocols"] = "Http2",
        });
        using var client = Client();

        Assert.Equal(200, (await service.SendAsync("GET", "/health/live")).Status);
        Assert.Equal((HttpStatusCode.OK, HttpVersion.Version20), await SendAsync(client, service.Urls.Last(), HttpMethod.Get, "/health/live"));
        Assert.Equal(400, (await RawHttp.SendAsync(service.Urls.Last(), "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).Status);
    }

    private static HttpClient Client(Action? connected = null) => new(new SocketsHttpHandler
    {
        UseProxy = false,
        ConnectCallback = async (context, cancellationToken) =>
        {
            var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            await socket.ConnectAsync(context.DnsEndPoint, cancellationToken);
            connected?.Invoke();
            return new NetworkStream(socket, ownsSocket: true);
        },
    });

    private Task<(HttpStatusCode Status, Version Version)> SendAsync(HttpClient client, TestService service, HttpMethod method, string target, HttpContent? body = null) =>
        SendAsync(client, service.Url, method, target, body);

    private async Task<(HttpStatusCode Status, Version Version)> SendAsync(HttpClient client, string url, HttpMethod method, string target, HttpContent? body = null)
    {
        using var request = new HttpRequestMessage(method, url + target)
        {
            Content = body,
            Version = HttpVersion.Version20,
            VersionPolicy = HttpVersionPolicy.RequestVersionExact,
            Headers = { { "Authorization", $"Bearer {Tokens.OfOrganization(_org)}" } },
        };
        using var answer = await client.SendAsync(request);
        return (answer.StatusCode, answer.Version);
    }

    private Task<TestService> StartAsync() =>
        TestService.StartAsync(fixture.Tables.ServiceConnectionString, new() { ["Kestrel:EndpointDefaults:Protocols"] = "Http2" });
}
