using System.Diagnostics;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

namespace CalcomAccounts.Api.Authentication;

/// <summary>Validates a token by the keys of its own issuer, and reads its caller from it.</summary>
internal sealed class TokenValidator(IReadOnlyList<TrustedIssuer> issuers, CallerClaims claims, TokenCache? cache) : TokenHandler
{
    private readonly JsonWebTokenHandler _handler = new() { MapInboundClaims = false };

    /// <returns>
    /// An identity that holds the caller and nothing else of the token, or a <see cref="TokenRefusedException"/>, or, where the token
    /// can't be judged, a <see cref="KeysUnavailableException"/>.
    /// </returns>
    public override async Task<TokenValidationResult> ValidateTokenAsync(string token, TokenValidationParameters validationParameters)
    {
        try
        {
            var read = Read(token);
            var keySet = await ValidateAsync(read);
            var user = claims.ToPrincipal(read);
            cache?.Add(token, keySet, user, read.ValidTo);
            return new() { IsValid = true, SecurityToken = read, ClaimsIdentity = user.Identities.Single() };
        }
        catch (Exception exception) when (exception is TokenRefusedException or KeysUnavailableException)
        {
            return new() { Exception = exception };
        }
    }

    private static JsonWebToken Read(string token)
    {
        JsonWebToken read;
        try
        {
            read = new(token);
        }
        catch (Exception exception) when (exception is ArgumentException or SecurityTokenException)
        {
            throw new TokenRefusedException(Refusal.Malformed);
        }

        // RFC 9068, section 4, and RFC 7519, section 5.1; other tokens of an issuer, such as of its logout, are not for callers.
        return read.Typ is null or "" || IsAccessToken(read.Typ) ? read : throw new TokenRefusedException(Refusal.Type);
    }

    private static bool IsAccessToken(string type) =>
        type.Equals("JWT", StringComparison.OrdinalIgnoreCase)
        || type.Equals("at+jwt", StringComparison.OrdinalIgnoreCase)
        || type.Equals("application/at+jwt", StringComparison.OrdinalIgnoreCase);

    /// <returns>The keys that have validated it.</returns>
    private async Task<KeySet> ValidateAsync(JsonWebToken token)
    {
        var arrived = Stopwatch.GetTimestamp();
        var issuer = await FindIssuerAsync(token.Issuer);
        if (!issuer.Allows(token.Alg))
        {
            throw new TokenRefusedException(Refusal.Algorithm);
        }

        while (true)
        {
            var keySet = issuer.KeySet;
            var result = await _handler.ValidateTokenAsync(token, keySet.Rules);
            if (result.IsValid)
            {
                return keySet;
            }

            if (result.Exception is not SecurityTokenSignatureKeyNotFoundException || !SigningKeys.IsAsymmetric(token.Alg))
            {
                throw new TokenRefusedException(Refusal.Of(result.Exception));
            }

            // A key set that was asked for before the token came may lack the key that signed it.
            if (issuer.Published!.AskedAt >= arrived)
            {
                throw new TokenRefusedException(Refusal.UnknownKey);
            }

            await issuer.Published.RefreshAsync();
        }
    }

    private async Task<TrustedIssuer> FindIssuerAsync(string name)
    {
        if (issuers.FirstOrDefault(issuer => issuer.Issuers.Contains(name)) is { } configured)
        {
            return configured;
        }

        // Which issuer an authority is, it says itself. Where two say that they are the same, one of them is not.
        if (!issuers.Any(issuer => issuer.KeySet.Issuers.Contains(name)))
        {
            await Task.WhenAll(issuers.Where(issuer => !issuer.IsKnown).Select(issuer => issuer.Published!.RefreshAsync()));
        }

        return issuers.Where(issuer => issuer.KeySet.Issuers.Contains(name)).ToList() is [var named]
            ? named
            : throw new TokenRefusedException(Refusal.Issuer);
    }
}
