using System.Security.Claims;
using System.Text.Json;
using CalcomAccounts.Api.Hosting;
using CalcomAccounts.Application;
using Microsoft.AspNetCore.Authentication.JwtBearer;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>
/// Reads from a token whose signature is valid who its bearer is, and whether it may call the service at all. The request's user holds
/// that and nothing else of the token, so that it is the same whether the token was validated now or is remembered.
/// </summary>
internal sealed class CallerClaims(CalcomAccountsOptions options)
{
    private const string OrganizationType = "organization";
    private const string SubjectType = "subject";
    private const string LackType = "lacks";

    // A member given twice is refused: RFC 7519, section 4, and the readers before and after us may differ on which counts.
    private static readonly JsonDocumentOptions s_strict = new() { AllowDuplicateProperties = false };

    /// <summary>The user that stands for the bearer.</summary>
    /// <exception cref="TokenRefusedException">The claims don't say who asks, or the token asks for what is not understood here.</exception>
    public ClaimsPrincipal ToPrincipal(JsonWebToken token)
    {
        try
        {
            using var header = JsonDocument.Parse(Base64UrlEncoder.DecodeBytes(token.EncodedHeader), s_strict);
            using var payload = JsonDocument.Parse(Base64UrlEncoder.DecodeBytes(token.EncodedPayload), s_strict);
            var claims = payload.RootElement;

            // No extension is understood here, so none may be critical: RFC 7515, section 4.1.11.
            if (header.RootElement.TryGetProperty("crit", out _))
            {
                throw new TokenRefusedException(Refusal.CriticalHeader);
            }

            // Bound to a key that its bearer has to prove, which nobody asked for: RFC 7800, section 3.1.
            if (Find(claims, "cnf") is not null)
            {
                throw new TokenRefusedException(Refusal.SenderConstrained);
            }

            return ToPrincipal(ReadCaller(claims), FindLack(claims));
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException)
        {
            // A member given twice, or text that is not Unicode.
            throw new TokenRefusedException(Refusal.Malformed);
        }
    }

    /// <summary>The user that stands for a caller.</summary>
    /// <param name="caller">Who asks.</param>
    /// <param name="lack">Which of <see cref="Refusal.Scope"/> and <see cref="Refusal.Role"/> its token lacks; null where neither.</param>
    public static ClaimsPrincipal ToPrincipal(Caller caller, string? lack = null)
    {
        var identity = new ClaimsIdentity(JwtBearerDefaults.AuthenticationScheme);
        identity.AddClaim(caller.OrgId is { } orgId ? new(OrganizationType, orgId.ToString()) : new(SubjectType, caller.Subject!));
        if (lack is not null)
        {
            identity.AddClaim(new(LackType, lack));
        }

        return new(identity);
    }

    /// <summary>The caller that the user of an authenticated request stands for.</summary>
    /// <exception cref="InvalidOperationException">The request was not authenticated.</exception>
    public static Caller ToCaller(ClaimsPrincipal user) => user.Claims.First() switch
    {
        { Type: OrganizationType } organization => Caller.OfOrganization(Guid.Parse(organization.Value)),
        var subject => Caller.OfSubject(subject.Value),
    };

    /// <summary><c>organization</c> or <c>membership</c>: by what the user of a request reaches agents; null where it was not authenticated.</summary>
    public static string? KindOf(ClaimsPrincipal user) => user.Claims.FirstOrDefault()?.Type switch
    {
        null => null,
        OrganizationType => "organization",
        _ => "membership",
    };

    /// <summary>What the user's token lacks that the configuration asks for; null where nothing.</summary>
    public static string? LackOf(ClaimsPrincipal user) => user.FindFirst(LackType)?.Value;

    private Caller ReadCaller(JsonElement claims)
    {
        var organization = Find(claims, options.OrganizationClaim) ?? default;
        if (organization.ValueKind is JsonValueKind.String && organization.GetString() is { Length: > 0 } orgId)
        {
            if (Uuid.IsValid(orgId))
            {
                return Caller.OfOrganization(Uuid.Parse(orgId));
            }

            if (options.OrganizationClaimFormat is not CalcomAccountsOptions.IgnoreOthers)
            {
                throw new TokenRefusedException(Refusal.OrganizationClaim);
            }
        }
        else if (organization.ValueKind is not (JsonValueKind.Undefined or JsonValueKind.String))
        {
            throw new TokenRefusedException(Refusal.OrganizationClaim);
        }

        return Find(claims, options.SubjectClaim) is { ValueKind: JsonValueKind.String } subject && subject.GetString() is { Length: > 0 } name
            ? Caller.OfSubject(name)
            : throw new TokenRefusedException(Refusal.Subject);
    }

    private string? FindLack(JsonElement claims) =>
        options.RequiredScope is { Length: > 0 } scope && !HasAll(scope.Split(' ', StringSplitOptions.RemoveEmptyEntries), claims, "scope", "scp") ? Refusal.Scope
        : options.RequiredRoles.Count > 0 && !HasAll(options.RequiredRoles, claims, "roles", "realm_access.roles") ? Refusal.Role
        : null;

    private static bool HasAll(IEnumerable<string> required, JsonElement claims, string name, string otherName) =>
        required.All(Words(Find(claims, name)).Concat(Words(Find(claims, otherName))).Contains);

    // RFC 8693, section 4.2, has them as a text with blanks; many providers as an array.
    private static IEnumerable<string> Words(JsonElement? claim) => claim switch
    {
        { ValueKind: JsonValueKind.String } text => text.GetString()!.Split(' '),
        { ValueKind: JsonValueKind.Array } array => array.EnumerateArray().Where(word => word.ValueKind is JsonValueKind.String).Select(word => word.GetString()!),
        _ => [],
    };

    /// <summary>
    /// A claim by its name as it is, or by a path into objects whose names are joined by dots; the longest name that exists wins.
    /// </summary>
    /// <returns>Null where it is absent or JSON null.</returns>
    private static JsonElement? Find(JsonElement claims, string path)
    {
        if (claims.TryGetProperty(path, out var claim))
        {
            return claim.ValueKind is JsonValueKind.Null ? null : claim;
        }

        for (var dot = path.LastIndexOf('.'); dot > 0; dot = path.LastIndexOf('.', dot - 1))
        {
            if (claims.TryGetProperty(path[..dot], out var inner) && inner.ValueKind is JsonValueKind.Object && Find(inner, path[(dot + 1)..]) is { } found)
            {
                return found;
            }
        }

        return null;
    }
}
