using System.Security.Claims;
using System.Text.Json;
using CalcomAccounts.Application;
using Microsoft.AspNetCore.Authentication.JwtBearer;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>
/// Who the bearer of a token is. The request's user holds that one claim and nothing else of the token, so that it is the same whether
/// the token was validated now or is remembered.
/// </summary>
internal static class CallerClaims
{
    private const string OrganizationClaim = "organization";
    private const string SubjectClaim = "subject";

    // A member given twice is refused: RFC 7519, section 4, and the readers before and after us may differ on which counts.
    private static readonly JsonDocumentOptions s_strict = new() { AllowDuplicateProperties = false };

    /// <summary>The bearer of a token whose signature is valid.</summary>
    /// <returns>Null where the claims don't say who asks, or the header asks for what is not understood here.</returns>
    public static Caller? Read(JsonWebToken token, string organizationClaim)
    {
        try
        {
            using var header = JsonDocument.Parse(Base64UrlEncoder.DecodeBytes(token.EncodedHeader), s_strict);
            using var claims = JsonDocument.Parse(Base64UrlEncoder.DecodeBytes(token.EncodedPayload), s_strict);

            // No extension is understood here, so none may be critical: RFC 7515, section 4.1.11.
            return header.RootElement.TryGetProperty("crit", out _) ? null : Read(claims.RootElement, organizationClaim);
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException)
        {
            // A member given twice, or text that is not Unicode.
            return null;
        }
    }

    /// <summary>The user that stands for a caller.</summary>
    public static ClaimsPrincipal ToPrincipal(Caller caller) => new(new ClaimsIdentity(
        [caller.OrgId is { } orgId ? new(OrganizationClaim, orgId.ToString()) : new(SubjectClaim, caller.Subject!)],
        JwtBearerDefaults.AuthenticationScheme));

    /// <summary>The caller that the user of an authenticated request stands for.</summary>
    /// <exception cref="InvalidOperationException">The request was not authenticated.</exception>
    public static Caller ToCaller(this ClaimsPrincipal user) => user.Claims.Single() switch
    {
        { Type: OrganizationClaim } organization => Caller.OfOrganization(Guid.Parse(organization.Value)),
        var subject => Caller.OfSubject(subject.Value),
    };

    private static Caller? Read(JsonElement claims, string organizationClaim)
    {
        claims.TryGetProperty(organizationClaim, out var organization);
        claims.TryGetProperty("sub", out var subject);
        return (organization.ValueKind, subject.ValueKind) switch
        {
            (JsonValueKind.String, _) when organization.GetString() is { Length: > 0 } orgId =>
                Uuid.IsValid(orgId) ? Caller.OfOrganization(Uuid.Parse(orgId)) : null,
            (JsonValueKind.Undefined or JsonValueKind.Null or JsonValueKind.String, JsonValueKind.String)
                when subject.GetString() is { Length: > 0 } name => Caller.OfSubject(name),
            _ => null,
        };
    }
}
