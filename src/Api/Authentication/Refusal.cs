using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>Why a token is refused: for the operator, never for the caller.</summary>
internal static class Refusal
{
    public const string NoToken = "no_token";
    public const string Malformed = "malformed";
    public const string Type = "type";
    public const string Algorithm = "algorithm";
    public const string Signature = "signature";
    public const string UnknownKey = "unknown_key";
    public const string Issuer = "issuer";
    public const string Audience = "audience";
    public const string Expired = "expired";
    public const string NotYetValid = "not_yet_valid";
    public const string CriticalHeader = "critical_header";
    public const string SenderConstrained = "sender_constrained";
    public const string OrganizationClaim = "organization_claim";
    public const string Subject = "subject";
    public const string Scope = "scope";
    public const string Role = "role";

    /// <summary>The reason for what the library throws; a configured key has no id that a token could name.</summary>
    public static string Of(Exception exception) => exception switch
    {
        SecurityTokenSignatureKeyNotFoundException or SecurityTokenInvalidSignatureException or SecurityTokenInvalidSigningKeyException => Signature,
        SecurityTokenInvalidAudienceException => Audience,
        SecurityTokenInvalidIssuerException => Issuer,
        SecurityTokenNotYetValidException => NotYetValid,
        SecurityTokenExpiredException or SecurityTokenNoExpirationException or SecurityTokenInvalidLifetimeException => Expired,
        _ => Malformed,
    };
}

/// <summary>A token is refused. Nothing of the token is in it.</summary>
/// <param name="reason">One of <see cref="Refusal"/>.</param>
internal sealed class TokenRefusedException(string reason) : SecurityTokenException($"Refused: {reason}.")
{
    public string Reason { get; } = reason;
}
