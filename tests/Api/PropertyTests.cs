using System.Text.Json;
using System.Text.RegularExpressions;
using CsCheck;

namespace CalcomAccounts.Tests.Api;

/// <summary>Random requests get a response from the contract, or an empty error response of the HTTP server, and nothing of them is echoed.</summary>
public sealed class PropertyTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    // Part of everything that a caller may choose, so that any echo is noticed.
    private const string Canary = "zq7Xw";
    private const int Iterations = 2000;

    private static readonly Guid s_org = Guid.NewGuid();

    private static readonly string[] s_messages =
    [
        "org_id is needed, as the token names no organization",
        "agent_ids[n] is no parameter; there are org_id, limit, after, connected, type, status, calcom_account_id",
        "one of the names is no parameter; there are org_id, limit, after, connected, type, status, calcom_account_id",
        "agent_id must be a UUID", "org_id must be a UUID, given once", "A valid JWT is required, as 'Authorization: Bearer <token>'",
        "Agent not found", "Route not found", "Method not allowed", "Agent Cal.com accounts retrieved", "agent_ids[n] must be a UUID",
        "Content-Type must be application/json, and the body not compressed", "the body must be a JSON object that holds agent_ids, a list of 1 to 100 UUIDs, and nothing else but org_id",
    ];

    // Any allowed byte, and percent-encoded ones, valid and invalid.
    private static readonly Gen<string> s_text = Gen.Frequency(
        (4, Gen.Char[" !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~09azAZ"].Select(c => c.ToString())),
        (4, Gen.Byte.Select(b => $"%{b:X2}")),
        (1, Gen.Byte.Select(b => ((char)b).ToString())),
        (1, Among("%", "%2", "%u0041", "..", "//", "%2F", "%00", "%C0%AF", "%ED%A0%80", "\u00ff", "null", "%2500"))).List[0, 12].Select(parts => Canary + string.Concat(parts));

    // Without characters that would end the request line or target.
    private static readonly Gen<string> s_inTarget = s_text.Select(text => string.Concat(text.Split(' ', '\r', '\n')));

    private static readonly Gen<string> s_uuid = Gen.Guid.Select(id => id.ToString());

    private static readonly Gen<string> s_almostUuid = Gen.Select(s_uuid, Gen.Int[0, 35], Gen.Char['!', '~'])
        .Select((id, at, change) => id[..at] + change + id[(at + 1)..]);

    private static readonly Gen<string> s_path = Gen.Frequency(
        (4, Gen.OneOf(s_uuid, s_almostUuid, s_inTarget).Select(TestService.AccountPath)),
        (2, Gen.OneOf(s_uuid, s_almostUuid, s_inTarget).Select(id => TestService.AccountPath(id) + "/explain")),
        (1, Gen.Const(TestService.AccountsPath)),
        (1, Gen.Select(s_uuid, s_inTarget).Select((id, more) => TestService.AccountPath(id) + more)),
        (1, s_inTarget.Select(text => "/" + text)),
        (1, Gen.Select(s_inTarget, s_inTarget).Select((one, other) => $"/{one}/v1/calcom/agents/{other}")));

    private static readonly Gen<string> s_query = Gen.Frequency(
        (2, Gen.Const("")),
        (3, Gen.OneOf(s_uuid, s_almostUuid, s_inTarget).Select(value => "?org_id=" + value)),
        (2, Gen.Select(Gen.OneOf(Among("org_id", "ORG_ID", "agent_id", "org_id[]", ""), s_inTarget), s_inTarget).List[1, 4].Select(pairs => "?" + string.Join('&', pairs.Select(pair => $"{pair.Item1}={pair.Item2}")))));

    private static readonly Gen<string> s_headers = Gen.Select(
        Gen.Frequency(
            (3, Gen.Const(() => $"Authorization: Bearer {Tokens.OfOrganization(s_org)}\r\n")),
            (3, Gen.Const(() => $"Authorization: Bearer {Tokens.OfSubject("somebody")}\r\n")),
            (1, s_text.Select(text => $"Authorization: Bearer {text}\r\n")),
            (1, s_text.Select(text => $"Authorization: {text}\r\n")),
            (1, Gen.Select(s_text, s_text).Select((header, payload) => $"Authorization: Bearer {Tokens.Sign(header, payload)}\r\n")),
            (1, Gen.Const(""))),
        Gen.Select(
            Among("Accept", "Content-Type", "Content-Length", "Expect", "If-None-Match", "Range", "Transfer-Encoding", "Upgrade", "X-Forwarded-Host", "X-HTTP-Method-Override", "traceparent", "tracestate", "Cookie", "Origin", "Host", Canary),
            s_text).List[0, 3].Select(headers => string.Concat(headers.Select(header => $"{header.Item1}: {header.Item2}\r\n")))).Select((authorization, others) => authorization + others);

    private static readonly Gen<string> s_method = Gen.Frequency(
        (8, Gen.Const("GET")), (1, Among("HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "TRACE")), (1, Gen.Const(Canary)));

    private static readonly Gen<string> s_element = Gen.Frequency(
        (6, s_uuid.Select(id => $"\"{id}\"")),
        (1, Gen.OneOf(s_almostUuid, s_text).Select(text => $"\"{text}\"")),
        (1, Among("null", "7", "1e999", "true", "[]", "{}", "\"\\ud800\"", "\"\"", "")));

    private static readonly Gen<string> s_body = Gen.Select(
        Gen.Frequency(
            (6, s_element.List[0, 6].Select(ids => $"\"agent_ids\":[{string.Join(',', ids)}]")),
            (1, s_element.Select(id => $"\"agent_ids\":{id}"))),
        Gen.Frequency(
            (4, Gen.Const("")),
            (1, s_element.Select(org => $",\"org_id\":{org}")),
            (1, Gen.Select(s_text, s_element).Select((name, value) => $",\"{name}\":{value}"))),
        Gen.Frequency((4, Gen.Const("}")), (1, s_text), (1, Gen.Const("")))).Select((ids, more, end) => $"{{{ids}{more}{end}");

    // The one message that repeats what was sent: the name of a parameter that there is not, where it is a plain word.
    private static readonly Regex s_noParameter = new(@"^.*?""message"":""(\w+) is no parameter");

    [Fact]
    public Task RandomRequests_GetContractResponsesWithoutEcho() =>
        Gen.Select(s_method, s_path, s_query, s_headers).SampleAsync(
            async (method, path, query, headers) =>
            {
                var answer = await RawHttp.SendAsync(
                    fixture.Service.Url, $"{method} {path}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");

                Assert.InRange(answer.Status, 200, 499);
                AssertOfContract(answer);
                Assert.DoesNotContain(Canary, s_noParameter.Replace(answer.Body, ""), StringComparison.OrdinalIgnoreCase);
                Assert.DoesNotContain(answer.Headers, header => $"{header.Key}: {header.Value}".Contains(Canary, StringComparison.OrdinalIgnoreCase));
            },
            iter: Iterations,
            threads: 4);

    [Fact]
    public Task RandomListBodies_GetContractResponsesWithoutEcho() =>
        Gen.Select(s_body, s_query, s_headers).SampleAsync(
            async (body, query, headers) =>
            {
                var answer = await RawHttp.SendAsync(
                    fixture.Service.Url,
                    $"POST {TestService.AccountsPath}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {body.Length}\r\n{headers}\r\n{body}");

                Assert.InRange(answer.Status, 200, 499);
                AssertOfContract(answer);
                Assert.DoesNotContain(Canary, answer.Body, StringComparison.OrdinalIgnoreCase);
            },
            iter: Iterations,
            threads: 4);

    private static Gen<string> Among(params string[] words) => Gen.Int[0, words.Length - 1].Select(index => words[index]);

    private static void AssertOfContract(Answer answer)
    {
        if (answer.Header("Content-Type") is null)
        {
            // Kestrel's own response to invalid HTTP, or the response to a HEAD request.
            Assert.Equal("", answer.Body);
            return;
        }

        Assert.Equal("application/json; charset=utf-8", answer.Header("Content-Type"));
        Assert.Equal("no-store", answer.Header("Cache-Control"));
        if (answer.Body is "")
        {
            return;
        }

        using var body = JsonDocument.Parse(answer.Body);
        Assert.Equal(answer.Status is 200, body.RootElement.GetProperty("success").GetBoolean());
        Assert.Contains(Regex.Replace(body.RootElement.GetProperty("message").GetString()!, @"^agent_ids\[\d\]|^(?!one of)\w+(?= is no parameter)", "agent_ids[n]"), s_messages);
        Assert.Equal(answer.Status is not (200 or 401), body.RootElement.TryGetProperty("code", out _));
    }
}
