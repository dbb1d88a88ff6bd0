namespace CalcomAccounts.Tests.Security;

/// <summary>docs/security.md: the settings for each identity provider, with tokens of its shape.</summary>
public sealed class ProviderTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    // The name of the provider's host in its settings; a token's header and claims; what another token of the provider lacks.
    [Theory]
    [InlineData(
        "auth0.com",
        """{"alg":"RS256","typ":"at+jwt","kid":"rsa"}""",
        """{"iss":"$ISSUER","sub":"auth0|507f1f77bcf86cd799439011","aud":["$AUDIENCE","https://example.eu.auth0.com/userinfo"],"iat":$IAT,"exp":$EXP,"azp":"client","org_id":"org_9ybsU1dN2dKfDkBi","scope":"openid calcom:read","https://platform.example/org_id":"$ORG","permissions":["calcom:read"]}""",
        "calcom:read")]
    [InlineData(
        "keycloak.example",
        """{"alg":"RS256","typ":"JWT","kid":"rsa"}""",
        """{"iss":"$ISSUER","sub":"8f3e8d2a-1c5f-4a34-9d6b-1f6a6d0e4a11","aud":["$AUDIENCE","account"],"typ":"Bearer","azp":"dialer","iat":$IAT,"exp":$EXP,"jti":"onrtac:1","acr":"1","realm_access":{"roles":["offline_access","calcom-reader"]},"resource_access":{"account":{"roles":["view-profile"]}},"scope":"profile email","org_id":"$ORG"}""",
        "calcom-reader")]
    [InlineData(
        "login.microsoftonline.com",
        """{"typ":"JWT","alg":"RS256","kid":"rsa","x5t":"rsa"}""",
        """{"aud":"$AUDIENCE","iss":"$ISSUER","iat":$IAT,"nbf":$IAT,"exp":$EXP,"azp":"client","azpacr":"1","name":"Somebody","oid":"$MEMBER","scp":"Calcom.Read User.Read","sub":"pairwise","tid":"11111111-2222-4333-8444-555555555555","uti":"token","ver":"2.0","xms_tcdt":1700000000}""",
        "Calcom.Read ")]
    [InlineData(
        "supabase.co",
        """{"alg":"ES256","kid":"ec","typ":"JWT"}""",
        """{"iss":"$ISSUER","sub":"8f3e8d2a-1c5f-4a34-9d6b-1f6a6d0e4a11","aud":"$AUDIENCE","exp":$EXP,"iat":$IAT,"email":"somebody@example","phone":"","app_metadata":{"provider":"email","providers":["email"],"org_id":"$ORG"},"user_metadata":{"org_id":"00000000-0000-4000-8000-000000000000"},"role":"authenticated","aal":"aal1","amr":[{"method":"password","timestamp":1700000000}],"session_id":"s","is_anonymous":false}""",
        null)]
    [InlineData(
        "authkit.app",
        """{"alg":"RS256","kid":"rsa"}""",
        """{"iss":"$ISSUER","sub":"$MEMBER","aud":"$AUDIENCE","act":{"sub":"admin"},"org_id":"org_01HRDMC6CM357W30QMHMQ96Q0S","role":"member","permissions":["posts:read"],"sid":"session_01","jti":"01","exp":$EXP,"iat":$IAT}""",
        null)]
    public async Task Token_OfAProvider_ReachesItsOrganizationWithTheDocumentedSettings(string host, string header, string claims, string? required)
    {
        await using var authority = await TestAuthority.StartAsync();
        var (org, otherOrg, member) = (Guid.NewGuid(), Guid.NewGuid(), $"{Guid.NewGuid()}");
        var agent = await fixture.Tables.AddAgentAsync(org);
        var foreign = await fixture.Tables.AddAgentAsync(otherOrg);
        await fixture.Tables.AddMemberAsync(org, member);
        var settings = Docs.Block("docs/security.md", "ini", host).Trim().Split('\n').Select(line => line.Split('=', 2))
            .ToDictionary(setting => setting[0].Replace("__", ":", StringComparison.Ordinal), setting => (string?)setting[1]);
        var audience = settings["Authentication:Schemes:Bearer:ValidAudience"]!;
        foreach (var (key, value) in TestAuthority.Settings(authority.Issuer))
        {
            settings[key] = value;
        }

        await using var service = await TestService.StartAsync(fixture.Tables.ServiceConnectionString, settings);
        var token = Sign(claims);

        Assert.Equal(200, (await service.GetAccountAsync(agent, token)).Status);
        Assert.Equal(404, (await service.GetAccountAsync(foreign, token)).Status);
        Assert.Equal(404, (await service.GetAccountAsync(foreign, token, $"?org_id={otherOrg}")).Status);
        Assert.Equal(401, (await service.GetAccountAsync(agent, Sign(claims.Replace("$AUDIENCE", "another", StringComparison.Ordinal)))).Status);
        if (required is not null)
        {
            Assert.Equal(403, (await service.GetAccountAsync(agent, Sign(claims.Replace(required, "", StringComparison.Ordinal)))).Status);
        }

        string Sign(string payload) => Tokens.Sign(
            header,
            payload.Replace("$ISSUER", authority.Issuer, StringComparison.Ordinal)
                .Replace("$AUDIENCE", audience, StringComparison.Ordinal)
                .Replace("$ORG", $"{org}", StringComparison.Ordinal)
                .Replace("$MEMBER", member, StringComparison.Ordinal)
                .Replace("$IAT", $"{Tokens.InSeconds(-10)}", StringComparison.Ordinal)
                .Replace("$EXP", $"{Tokens.InSeconds(300)}", StringComparison.Ordinal),
            hmac: (_, data) => header.Contains("ES256", StringComparison.Ordinal)
                ? authority.Ec.SignData(data, System.Security.Cryptography.HashAlgorithmName.SHA256)
                : TestAuthority.SignRs256(authority.Rsa, data));
    }
}
