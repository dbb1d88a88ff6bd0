using System.Buffers.Binary;
using System.Security.Claims;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.Internal;

namespace CalcomAccounts.Api.Authentication;

/// <summary>
/// Whose the tokens are that were validated lately, by the SHA-256 of the whole token, while the keys that validated them
/// are in force. It holds neither tokens nor anything of one that was refused.
/// </summary>
internal sealed class TokenCache(TimeProvider clock) : IDisposable
{
    private const int MaxEntries = 10_000;
    private static readonly TimeSpan s_maxAge = TimeSpan.FromSeconds(60);

    private readonly MemoryCache _entries = new(new MemoryCacheOptions { SizeLimit = MaxEntries, Clock = new Clock(clock) });

    /// <summary>The bearer of a token that was validated by keys that are in force; null where it has to be validated again.</summary>
    /// <param name="token">The whole token, as it was sent.</param>
    public ClaimsPrincipal? Find(string token) => _entries.Get<Entry>(Hash.Of(token)) is { KeySet.IsCurrent: true } entry ? entry.User : null;

    /// <summary>Remembers the bearer of a valid token.</summary>
    /// <param name="token">The whole token, as it was sent.</param>
    /// <param name="keySet">What has validated it.</param>
    /// <param name="user">Its bearer.</param>
    /// <param name="expires">The token's own <c>exp</c>, without any clock skew.</param>
    public void Add(string token, KeySet keySet, ClaimsPrincipal user, DateTimeOffset expires)
    {
        var now = clock.GetUtcNow();
        if (expires > now)
        {
            var until = expires - now < s_maxAge ? expires : now + s_maxAge;
            _entries.Set(Hash.Of(token), new Entry(keySet, user), new MemoryCacheEntryOptions { AbsoluteExpiration = until, Size = 1 });
        }
    }

    public void Dispose() => _entries.Dispose();

    private sealed record Entry(KeySet KeySet, ClaimsPrincipal User);

    private sealed class Clock(TimeProvider clock) : ISystemClock
    {
        public DateTimeOffset UtcNow => clock.GetUtcNow();
    }

    private readonly record struct Hash(UInt128 First, UInt128 Second)
    {
        public static Hash Of(string token)
        {
            var hash = SHA256.HashData(Encoding.UTF8.GetBytes(token)).AsSpan();
            return new(BinaryPrimitives.ReadUInt128BigEndian(hash), BinaryPrimitives.ReadUInt128BigEndian(hash[16..]));
        }
    }
}
