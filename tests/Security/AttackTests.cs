using System.Buffers.Text;
using System.IO.Compression;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Tests.Security;

/// <summary>Forged and misplaced tokens, sent to services that trust a configured key, an authority, or both.</summary>
public sealed class AttackTests(ServiceFixture fixture, AttackTests.Targets targets) : IClassFixture<ServiceFixture>, IClassFixture<AttackTests.Targets>
{
    /// <summary>The longest token that fits into 32 KB of headers, with room for its other parts and base64.</summary>
    private const int Longest = 30 * 1024;

    private static readonly Guid s_org = Guid.NewGuid();

    private static readonly byte[] s_curveOrder =
        Convert.FromHexString("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551");

    // Each creates a complete token for a target.
    private static readonly Dictionary<string, Func<Target, string>> s_tokens = new()
    {
        ["alg none"] = target => Unsigned("""{"alg":"none","typ":"JWT"}""", target.Payload()),
        ["alg None"] = target => Unsigned("""{"alg":"None","typ":"JWT"}""", target.Payload()),
        ["alg NONE"] = target => Unsigned("""{"alg":"NONE","typ":"JWT"}""", target.Payload()),
        ["alg nOnE"] = target => Unsigned("""{"alg":"nOnE","typ":"JWT"}""", target.Payload()),
        ["alg none, yet signed"] = target => target.Sign("""{"alg":"none"}""", target.Payload()),
        ["alg none and a kid that is known"] = target => Unsigned($$"""{"alg":"none","kid":"{{target.Kid}}"}""", target.Payload()),
        ["alg empty"] = target => target.Sign("""{"alg":""}""", target.Payload()),
        ["alg missing"] = target => target.Sign("""{"typ":"JWT"}""", target.Payload()),
        ["alg null"] = target => target.Sign("""{"alg":null}""", target.Payload()),
        ["alg an array"] = target => target.Sign($$"""{"alg":["{{target.Algorithm}}"]}""", target.Payload()),
        ["alg in lower case"] = target => target.Sign(target.Header.Replace(target.Algorithm, target.Algorithm.ToLowerInvariant(), StringComparison.Ordinal), target.Payload()),
        ["alg with a space"] = target => target.Sign(target.Header.Replace(target.Algorithm, target.Algorithm + " ", StringComparison.Ordinal), target.Payload()),
        ["alg as an XML signature URI"] = target => target.Sign(target.Header.Replace(target.Algorithm, target.Algorithm is "HS256" ? SecurityAlgorithms.HmacSha256Signature : SecurityAlgorithms.RsaSha256Signature, StringComparison.Ordinal), target.Payload()),
        ["alg nobody knows"] = target => target.Sign(target.Header.Replace(target.Algorithm, "XS256", StringComparison.Ordinal), target.Payload()),

        ["HS256 by the public key as PEM"] = target => target.Hmac(Encoding.ASCII.GetBytes(target.Authority.Rsa.ExportSubjectPublicKeyInfoPem())),
        ["HS256 by the public key as PEM and a line feed"] = target => target.Hmac(Encoding.ASCII.GetBytes(target.Authority.Rsa.ExportSubjectPublicKeyInfoPem() + "\n")),
        ["HS256 by the public key as PKCS 1 PEM"] = target => target.Hmac(Encoding.ASCII.GetBytes(target.Authority.Rsa.ExportRSAPublicKeyPem())),
        ["HS256 by the public key as DER"] = target => target.Hmac(target.Authority.Rsa.ExportSubjectPublicKeyInfo()),
        ["HS256 by the public key as PKCS 1 DER"] = target => target.Hmac(target.Authority.Rsa.ExportRSAPublicKey()),
        ["HS256 by the public key as JWK"] = target => target.Hmac(JsonSerializer.SerializeToUtf8Bytes(TestAuthority.Jwk("rsa", target.Authority.Rsa))),
        ["HS256 by the public key's modulus"] = target => target.Hmac(target.Authority.Rsa.ExportParameters(false).Modulus!),
        ["HS256 by the elliptic public key as PEM"] = target => target.Hmac(Encoding.ASCII.GetBytes(target.Authority.Ec.ExportSubjectPublicKeyInfoPem()), kid: "ec"),
        ["HS256 by the elliptic public key's point"] = target => target.Hmac([.. target.Authority.Ec.ExportParameters(false).Q.X!, .. target.Authority.Ec.ExportParameters(false).Q.Y!], kid: "ec"),
        ["HS256 by an empty key"] = target => target.Hmac([]),
        ["HS256 by a key of zeros"] = target => target.Hmac(new byte[32]),
        ["HS256 by another key"] = target => target.Hmac(RandomNumberGenerator.GetBytes(32)),
        ["HS256 by half of the key"] = target => target.Hmac(Tokens.Key[..32]),
        ["HS256 by the key's base64"] = target => target.Hmac(Encoding.ASCII.GetBytes(Convert.ToBase64String(Tokens.Key))),
        ["HS384 by the key"] = target => Tokens.Sign("""{"alg":"HS384"}""", target.Payload(), hmac: HMACSHA384.HashData),
        ["HS512 by the key"] = target => Tokens.Sign("""{"alg":"HS512"}""", target.Payload(), hmac: HMACSHA512.HashData),
        ["HS256 by the key for an issuer that has another source of keys"] = target => Tokens.Sign("""{"alg":"HS256"}""", target.Payload(issuer: target.Authority.Issuer)),
        ["RS256 by the authority for an issuer that has a key of its own"] = target => Asymmetric(target, "RS256", "rsa", data => TestAuthority.SignRs256(target.Authority.Rsa, data), Tokens.Issuer),
        ["RS256 by an attacker's key under a known kid"] = target => Asymmetric(target, "RS256", "rsa", data => TestAuthority.SignRs256(target.Attacker.Rsa, data)),
        ["RS384 by a key for RS256"] = target => Asymmetric(target, "RS384", "rsa", data => target.Authority.Rsa.SignData(data, HashAlgorithmName.SHA384, RSASignaturePadding.Pkcs1)),
        ["PS256 by a key for RS256"] = target => Asymmetric(target, "PS256", "rsa", data => target.Authority.Rsa.SignData(data, HashAlgorithmName.SHA256, RSASignaturePadding.Pss)),
        ["RS256 under the elliptic kid"] = target => Asymmetric(target, "RS256", "ec", data => TestAuthority.SignRs256(target.Authority.Rsa, data)),
        ["RS256 with a signature of zeros"] = target => Asymmetric(target, "RS256", "rsa", _ => new byte[256]),
        ["RS256 with a key that was rotated out"] = target => Asymmetric(target, "RS256", "old", data => TestAuthority.SignRs256(target.RotatedOut, data)),
        ["ES256 with a signature of zeros"] = target => Asymmetric(target, "ES256", "ec", _ => new byte[64]),
        ["ES256 with a DER signature of zeros"] = target => Asymmetric(target, "ES256", "ec", _ => [0x30, 6, 2, 1, 0, 2, 1, 0]),
        ["ES256 with r and s the order of the curve"] = target => Asymmetric(target, "ES256", "ec", _ => [.. s_curveOrder, .. s_curveOrder]),
        ["ES256 with a signature in DER"] = target => Asymmetric(target, "ES256", "ec", data => target.Authority.Ec.SignData(data, HashAlgorithmName.SHA256, DSASignatureFormat.Rfc3279DerSequence)),
        ["ES256 by an attacker's key"] = target => Asymmetric(target, "ES256", "ec", data => target.Attacker.Ec.SignData(data, HashAlgorithmName.SHA256)),
        ["ES384 by a P-256 key"] = target => Asymmetric(target, "ES384", "ec", data => target.Authority.Ec.SignData(data, HashAlgorithmName.SHA384)),

        ["not a token"] = _ => "garbage",
        ["dots alone"] = _ => "..",
        ["one part"] = target => target.Valid.Split('.')[0],
        ["two parts"] = target => target.Valid[..target.Valid.LastIndexOf('.')],
        ["four parts"] = target => target.Valid + ".AAAA",
        ["signature stripped"] = target => target.Valid[..(target.Valid.LastIndexOf('.') + 1)],
        ["signature cut in half"] = target => With(target.Valid, 2, bytes => bytes[..(bytes.Length / 2)]),
        ["signature's first bit flipped"] = target => With(target.Valid, 2, bytes => Flip(bytes, 0)),
        ["signature's last bit flipped"] = target => With(target.Valid, 2, bytes => Flip(bytes, bytes.Length - 1)),
        ["a byte added to the signature"] = target => With(target.Valid, 2, bytes => [.. bytes, 0]),
        ["signature of another token"] = target => target.Valid[..target.Valid.LastIndexOf('.')] + "." + target.Sign(target.Header, target.Payload(more: ",\"x\":1")).Split('.')[2],
        ["header changed after signing"] = target => With(target.Valid, 0, bytes => [.. bytes[..^1], .. ",\"x\":1}"u8]),
        ["payload changed after signing"] = target => With(target.Valid, 1, bytes => [.. bytes[..^1], .. ",\"x\":1}"u8]),
        ["payload empty"] = target => target.Sign(target.Header, ""),
        ["payload not JSON"] = target => target.Sign(target.Header, "garbage"),
        ["payload an array"] = target => target.Sign(target.Header, $"[{target.Payload()}]"),
        ["payload followed by another"] = target => target.Sign(target.Header, target.Payload() + target.Payload()),
        ["payload a thousand levels deep"] = target => target.Sign(target.Header, target.Payload(more: $",\"x\":{new string('[', 1000)}{new string(']', 1000)}")),
        ["payload compressed"] = target => target.SignBytes(target.Header.Replace("{", "{\"zip\":\"DEF\",", StringComparison.Ordinal), Deflate(target.Payload())),
        ["a valid token nested in a token"] = target => target.Sign(target.Header.Replace("{", "{\"cty\":\"JWT\",", StringComparison.Ordinal), target.Valid),
        ["a valid token encrypted to the public key"] = target => Encrypt(target.Valid, new EncryptingCredentials(new RsaSecurityKey(target.Authority.Rsa.ExportParameters(false)) { KeyId = "rsa" }, SecurityAlgorithms.RsaOAEP, SecurityAlgorithms.Aes128CbcHmacSha256)),
        ["a valid token encrypted by the key"] = target => Encrypt(target.Valid, new EncryptingCredentials(new SymmetricSecurityKey(Tokens.Key[..32]), SecurityAlgorithms.Aes256KW, SecurityAlgorithms.Aes128CbcHmacSha256)),
        ["five parts, directly encrypted with nothing"] = _ => $"{Tokens.Encode("""{"alg":"dir","enc":"A128GCM"}""")}..AAAA.AAAA.AAAA",

        ["expired"] = target => target.Sign(target.Header, target.Payload(expiry: $"{Tokens.InSeconds(-35)}")),
        ["expired in 1970"] = target => target.Sign(target.Header, target.Payload(expiry: "0")),
        ["exp negative"] = target => target.Sign(target.Header, target.Payload(expiry: "-1")),
        ["exp missing"] = target => target.Sign(target.Header, target.Payload(expiry: null)),
        ["exp null"] = target => target.Sign(target.Header, target.Payload(expiry: "null")),
        ["exp a word"] = target => target.Sign(target.Header, target.Payload(expiry: "\"never\"")),
        ["exp an array"] = target => target.Sign(target.Header, target.Payload(expiry: $"[{Tokens.InSeconds(300)}]")),
        ["exp true"] = target => target.Sign(target.Header, target.Payload(expiry: "true")),
        ["not yet valid"] = target => target.Sign(target.Header, target.Payload(more: $",\"nbf\":{Tokens.InSeconds(35)}")),
        ["valid only after it has expired"] = target => target.Sign(target.Header, target.Payload(more: $",\"nbf\":{Tokens.InSeconds(600)}")),

        ["iss of another"] = target => target.Sign(target.Header, target.Payload(issuer: "https://other.example")),
        ["iss missing"] = target => target.Sign(target.Header, target.Payload(issuer: null)),
        ["iss empty"] = target => target.Sign(target.Header, target.Payload(issuer: "")),
        ["iss with a slash at its end"] = target => target.Sign(target.Header, target.Payload(issuer: target.Issuer + "/")),
        ["iss in upper case"] = target => target.Sign(target.Header, target.Payload(issuer: target.Issuer.ToUpperInvariant())),
        ["iss an array"] = target => target.Sign(target.Header, target.Payload().Replace($"\"{target.Issuer}\"", $"[\"{target.Issuer}\"]", StringComparison.Ordinal)),
        ["iss the attacker's, whose keys are published"] = target => Asymmetric(target, "RS256", "rsa", data => TestAuthority.SignRs256(target.Attacker.Rsa, data), target.Attacker.Issuer),
        ["aud of another"] = target => target.Sign(target.Header, target.Payload(audience: "\"other\"")),
        ["aud missing"] = target => target.Sign(target.Header, target.Payload(audience: null)),
        ["aud null"] = target => target.Sign(target.Header, target.Payload(audience: "null")),
        ["aud empty"] = target => target.Sign(target.Header, target.Payload(audience: "\"\"")),
        ["aud an empty array"] = target => target.Sign(target.Header, target.Payload(audience: "[]")),
        ["aud an array of others"] = target => target.Sign(target.Header, target.Payload(audience: $"[\"other\",\"{Tokens.Audience}/\"]")),
        ["aud an array in an array"] = target => target.Sign(target.Header, target.Payload(audience: $"[[\"{Tokens.Audience}\"]]")),
        ["aud an object"] = target => target.Sign(target.Header, target.Payload(audience: $"{{\"{Tokens.Audience}\":\"{Tokens.Audience}\"}}")),
        ["aud in upper case"] = target => target.Sign(target.Header, target.Payload(audience: $"\"{Tokens.Audience.ToUpperInvariant()}\"")),

        ["kid a path to an empty file"] = target => target.Hmac([], kid: "../../../../dev/null"),
        ["kid an SQL injection that yields the key"] = target => target.Hmac("secret"u8.ToArray(), kid: "' union select 'secret' --"),
        ["kid a URL of the attacker's key"] = target => Asymmetric(target, "RS256", $"{target.Attacker.Issuer}/keys", data => TestAuthority.SignRs256(target.Attacker.Rsa, data)),
        ["kid a command"] = target => target.Hmac([], kid: "|/bin/sh -c true"),
        ["jku of the attacker"] = target => ByAttacker(target, $"\"jku\":\"{target.Attacker.Issuer}/keys\""),
        ["x5u of the attacker"] = target => ByAttacker(target, $"\"x5u\":\"{target.Attacker.Issuer}/keys\""),
        ["jwk of the attacker"] = target => ByAttacker(target, $"\"jwk\":{JsonSerializer.Serialize(TestAuthority.Jwk("rsa", target.Attacker.Rsa))}"),
        ["x5c of the attacker"] = target => ByAttacker(target, $"\"x5c\":[\"{Convert.ToBase64String(target.Attacker.Rsa.ExportSubjectPublicKeyInfo())}\"]"),
        ["crit of what nobody understands"] = target => target.Sign(target.Header.Replace("{", "{\"crit\":[\"x\"],\"x\":1,", StringComparison.Ordinal), target.Payload()),
        ["crit of exp"] = target => target.Sign(target.Header.Replace("{", "{\"crit\":[\"exp\"],\"exp\":1,", StringComparison.Ordinal), target.Payload()),
        ["crit empty"] = target => target.Sign(target.Header.Replace("{", "{\"crit\":[],", StringComparison.Ordinal), target.Payload()),
        ["crit no array"] = target => target.Sign(target.Header.Replace("{", "{\"crit\":\"b64\",", StringComparison.Ordinal), target.Payload()),
        ["crit of b64, payload not encoded"] = target => target.Sign(target.Header.Replace("{", "{\"crit\":[\"b64\"],\"b64\":false,", StringComparison.Ordinal), target.Payload()),
        ["alg twice, the first none"] = target => target.Sign(target.Header.Replace("{", "{\"alg\":\"none\",", StringComparison.Ordinal), target.Payload()),
        ["alg twice, the second none"] = target => target.Sign(target.Header.Replace("}", ",\"alg\":\"none\"}", StringComparison.Ordinal), target.Payload()),
        ["header member twice"] = target => target.Sign(target.Header.Replace("}", ",\"x\":1,\"x\":2}", StringComparison.Ordinal), target.Payload()),
        ["claim twice"] = target => target.Sign(target.Header, target.Payload(more: ",\"sub\":\"a\",\"sub\":\"b\"")),
        ["claim twice, once escaped"] = target => target.Sign(target.Header, target.Payload(more: $",\"org_i\\u0064\":\"{Guid.NewGuid()}\"")),
        ["org_id twice"] = target => target.Sign(target.Header, target.Payload(more: $",\"org_id\":\"{Guid.NewGuid()}\"")),
        ["exp twice, the first past"] = target => target.Sign(target.Header, target.Payload(more: $",\"exp\":{Tokens.InSeconds(300)}", expiry: "1")),
        ["subject that is not Unicode"] = target => target.Sign(target.Header, target.Payload(more: ",\"sub\":\"\\ud800\"")),

        ["30 KB of garbage"] = _ => new string('x', Longest),
        ["30 KB of dots"] = _ => new string('.', Longest),
        ["30 KB of signature"] = target => With(target.Valid, 2, _ => new byte[Longest * 2 / 3]),
    };

    // Each puts a token where none belongs, or more than one where only one is allowed.
    private static readonly Dictionary<string, Func<string, string>> s_heads = new()
    {
        ["two Authorization headers, both valid"] = token => $"Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n",
        ["two Authorization headers, the second valid"] = token => $"Authorization: Bearer x\r\nAuthorization: Bearer {token}\r\n",
        ["two Authorization headers of two schemes"] = token => $"Authorization: Basic eDp5\r\nAuthorization: Bearer {token}\r\n",
        ["two tokens in one header"] = token => $"Authorization: Bearer {token}, Bearer {token}\r\n",
        ["scheme Basic"] = token => $"Authorization: Basic {token}\r\n",
        ["scheme Digest"] = token => $"Authorization: Digest {token}\r\n",
        ["scheme DPoP"] = token => $"Authorization: DPoP {token}\r\n",
        ["scheme Token"] = token => $"Authorization: Token {token}\r\n",
        ["scheme Bearer and a colon"] = token => $"Authorization: Bearer: {token}\r\n",
        ["scheme Bearer and no space"] = token => $"Authorization: Bearer{token}\r\n",
        ["no scheme"] = token => $"Authorization: {token}\r\n",
        ["an empty Authorization header"] = _ => "Authorization:\r\n",
        ["quotes around the token"] = token => $"Authorization: Bearer \"{token}\"\r\n",
        ["a space in the token"] = token => $"Authorization: Bearer {token.Insert(token.Length / 2, " ")}\r\n",
        ["Proxy-Authorization"] = token => $"Proxy-Authorization: Bearer {token}\r\n",
        ["X-Api-Key"] = token => $"X-Api-Key: {token}\r\n",
        ["X-Forwarded-Authorization"] = token => $"X-Forwarded-Authorization: Bearer {token}\r\n",
        ["a cookie"] = token => $"Cookie: access_token={token}; Authorization=Bearer {token}\r\n",
        ["a form in the body"] = token => $"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {"access_token=".Length + token.Length}\r\n\r\naccess_token={token}",
    };

    public static TheoryData<string> Attacks() => [.. s_tokens.Keys, .. s_heads.Keys];

    [Theory]
    [MemberData(nameof(Attacks))]
    public async Task ForgedOrMisplacedToken_Returns401WithoutFetchingAnything(string attack)
    {
        var agent = await fixture.Tables.AddAgentAsync(s_org);
        foreach (var target in await targets.AllAsync(fixture))
        {
            // Where valid tokens are cached, a similar one is in the cache.
            Assert.Equal(200, (await SendAsync(target, agent, $"Authorization: Bearer {target.Valid}\r\n")).Status);
            var head = s_tokens.TryGetValue(attack, out var token) ? $"Authorization: Bearer {token(target)}\r\n" : s_heads[attack](target.Valid);

            var answer = await SendAsync(target, agent, head);

            Assert.Equal((target.Name, 401), (target.Name, answer.Status));
            Assert.Equal("""{"success":false,"message":"A valid JWT is required, as 'Authorization: Bearer <token>'"}""", answer.Body);
            Assert.StartsWith("Bearer", answer.Header("WWW-Authenticate"), StringComparison.Ordinal);
            Assert.Equal(0, target.Attacker.Requests);
        }
    }

    [Fact]
    public async Task ValidToken_IsAcceptedByEveryTarget()
    {
        var agent = await fixture.Tables.AddAgentAsync(s_org);
        foreach (var target in await targets.AllAsync(fixture))
        {
            Assert.Equal((target.Name, 200), (target.Name, (await SendAsync(target, agent, $"Authorization: Bearer {target.Valid}\r\n")).Status));
        }
    }

    private static Task<Answer> SendAsync(Target target, Guid agent, string head) => RawHttp.SendAsync(
        target.Service.Url,
        $"GET {TestService.AccountPath(agent.ToString())} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}{(head.Contains("\r\n\r\n", StringComparison.Ordinal) ? "" : "\r\n")}");

    private static string Unsigned(string header, string payload) => $"{Tokens.Encode(header)}.{Tokens.Encode(payload)}.";

    private static string Asymmetric(Target target, string algorithm, string kid, Func<byte[], byte[]> sign, string? issuer = null) => Tokens.Sign(
        JsonSerializer.Serialize(new { alg = algorithm, kid }), target.Payload(issuer: issuer ?? target.Issuer), hmac: (_, data) => sign(data));

    private static string ByAttacker(Target target, string member) => Tokens.Sign(
        $$"""{"alg":"RS256",{{member}}}""", target.Payload(), hmac: (_, data) => TestAuthority.SignRs256(target.Attacker.Rsa, data));

    private static string With(string token, int part, Func<byte[], byte[]> change)
    {
        var parts = token.Split('.');
        parts[part] = Base64Url.EncodeToString(change(Base64Url.DecodeFromChars(parts[part])));
        return string.Join('.', parts);
    }

    private static byte[] Flip(byte[] bytes, int index)
    {
        bytes[index] ^= 1;
        return bytes;
    }

    private static byte[] Deflate(string text)
    {
        using var compressed = new MemoryStream();
        using (var deflate = new DeflateStream(compressed, CompressionLevel.Optimal))
        {
            deflate.Write(Encoding.UTF8.GetBytes(text));
        }

        return compressed.ToArray();
    }

    private static string Encrypt(string token, EncryptingCredentials credentials) => new JsonWebTokenHandler().EncryptToken(token, credentials);

    /// <summary>A service and how valid tokens for it are signed.</summary>
    internal sealed record Target(
        string Name, TestService Service, string Issuer, string Algorithm, string Kid, Func<byte[], byte[]> Signer,
        TestAuthority Authority, TestAuthority Attacker, RSA RotatedOut)
    {
        private const string Own = "own";
        private const string Soon = "soon";

        public string Header => $$"""{"alg":"{{Algorithm}}","kid":"{{Kid}}"}""";

        public string Valid => Sign(Header, Payload());

        /// <summary>The claims of a valid token, or of one that differs in one of them; null leaves a claim out.</summary>
        public string Payload(string more = "", string? issuer = Own, string? audience = $"\"{Tokens.Audience}\"", string? expiry = Soon)
        {
            var claims = new List<string>();
            if (issuer is not null)
            {
                claims.Add($"\"iss\":\"{(issuer is Own ? Issuer : issuer)}\"");
            }

            if (audience is not null)
            {
                claims.Add($"\"aud\":{audience}");
            }

            if (expiry is not null)
            {
                claims.Add($"\"exp\":{(expiry is Soon ? Tokens.InSeconds(300) : expiry)}");
            }

            return $$"""{{{string.Join(',', claims)}},"org_id":"{{s_org}}"{{more}}}""";
        }

        public string Sign(string header, string payload) => SignBytes(header, Encoding.UTF8.GetBytes(payload));

        public string SignBytes(string header, byte[] payload)
        {
            var content = $"{Tokens.Encode(header)}.{Base64Url.EncodeToString(payload)}";
            return $"{content}.{Tokens.Watched(Base64Url.EncodeToString(Signer(Encoding.ASCII.GetBytes(content))))}";
        }

        public string Hmac(byte[] key, string? kid = null) =>
            Tokens.Sign(JsonSerializer.Serialize(new { alg = "HS256", kid = kid ?? Kid }), Payload(), key);
    }

    public sealed class Targets : IAsyncLifetime
    {
        private readonly RSA _rotatedOut = RSA.Create(2048);
        private TestAuthority _authority = null!;
        private TestAuthority _attacker = null!;
        private IReadOnlyList<Target>? _all;

        public async ValueTask InitializeAsync()
        {
            _authority = await TestAuthority.StartAsync();
            _attacker = await TestAuthority.StartAsync();
        }

        internal async Task<IReadOnlyList<Target>> AllAsync(ServiceFixture fixture)
        {
            if (_all is not null)
            {
                return _all;
            }

            var database = fixture.Tables.ServiceConnectionString;
            var trustsBoth = TestAuthority.Settings(_authority.Issuer);
            foreach (var ofTheKey in trustsBoth.Where(setting => setting.Value is null).ToList())
            {
                trustsBoth.Remove(ofTheKey.Key);
            }

            _authority.Keys.Add(TestAuthority.Jwk("old", _rotatedOut));
            var all = new List<Target>();
            foreach (var useCache in new[] { true, false })
            {
                async Task<TestService> StartAsync(Dictionary<string, string?> settings) =>
                    await TestService.StartAsync(database, new(settings) { ["CalcomAccounts:TokenCache"] = $"{useCache}" });
                var (ofKey, ofAuthority, ofBoth) = (await StartAsync([]), await StartAsync(TestAuthority.Settings(_authority.Issuer)), await StartAsync(trustsBoth));
                all.AddRange(
                [
                    ByKey($"its key, trusting a key, token cache {useCache}", ofKey),
                    ByAuthority($"its authority, trusting one, token cache {useCache}", ofAuthority),
                    ByKey($"its key, trusting an authority too, token cache {useCache}", ofBoth),
                    ByAuthority($"its authority, trusting a key too, token cache {useCache}", ofBoth),
                ]);
            }

            await RotateAsync([.. all.Where(target => target.Algorithm is "RS256").Select(target => target.Service)]);
            _all = all;
            return _all;
        }

        public async ValueTask DisposeAsync()
        {
            foreach (var service in (_all ?? []).Select(target => target.Service).Distinct())
            {
                await service.DisposeAsync();
            }

            await _attacker.DisposeAsync();
            await _authority.DisposeAsync();
            _rotatedOut.Dispose();
        }

        private Target ByKey(string name, TestService service) => new(
            name, service, Tokens.Issuer, "HS256", "any", data => HMACSHA256.HashData(Tokens.Key, data), _authority, _attacker, _rotatedOut);

        private Target ByAuthority(string name, TestService service) => new(
            name, service, _authority.Issuer, "RS256", "rsa", data => TestAuthority.SignRs256(_authority.Rsa, data), _authority, _attacker, _rotatedOut);

        // The old key is accepted, then withdrawn; a token with an unknown key makes each service fetch the keys again.
        private async Task RotateAsync(params TestService[] services)
        {
            Task<Answer> AskAsync(TestService service, string kid, RSA key) => service.GetAccountAsync(
                Guid.NewGuid(), Asymmetric(ByAuthority("", service), "RS256", kid, data => TestAuthority.SignRs256(key, data)));

            foreach (var service in services)
            {
                Assert.Equal(404, (await AskAsync(service, "old", _rotatedOut)).Status);
            }

            _authority.Keys.RemoveAt(_authority.Keys.Count - 1);
            foreach (var service in services)
            {
                for (var i = 0; i < 100 && (await AskAsync(service, "old", _rotatedOut)).Status is not 401; i++)
                {
                    await AskAsync(service, "unknown", _attacker.Rsa);
                    await Task.Delay(100);
                }
            }
        }
    }
}
