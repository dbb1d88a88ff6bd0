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
internal sealed class TokenCache(TimeProvider clock)
{
    private const int MaxEntries = 10_000;
    private static readonly TimeSpan s_maxAge = TimeSpan.FromSeconds(60);

    private volatile Generation _current = Generation.Of(keySet: null, clock);

    /// <summary>The bearer of a token that was validated by this key set; null where it has to be validated again.</summary>
    /// <param name="token">The whole token, as it was sent.</param>
    /// <param name="keySet">What the authority publishes now, or null without one; what was validated by another is dropped.</param>
    public ClaimsPrincipal? Find(string token, object? keySet) => EntriesOf(keySet).Get<ClaimsPrincipal>(Hash.Of(token));

    /// <summary>Remembers the bearer of a valid token.</summary>
    /// <param name="token">The whole token, as it was sent.</param>
    /// <param name="keySet">What the authority published before the token was validated.</param>
    /// <param name="user">Its bearer.</param>
    /// <param name="expires">The token's own <c>exp</c>, without any clock skew.</param>
    public void Add(string token, object? keySet, ClaimsPrincipal user, DateTimeOffset expires)
    {
        var now = clock.GetUtcNow();
        if (expires > now)
        {
            var until = expires - now < s_maxAge ? expires : now + s_maxAge;
            EntriesOf(keySet).Set(Hash.Of(token), user, new MemoryCacheEntryOptions { AbsoluteExpiration = until, Size = 1 });
        }
    }

    private MemoryCache EntriesOf(object? keySet)
    {
        var current = _current;
        if (!ReferenceEquals(current.KeySet, keySet))
        {
            _current = current = Generation.Of(keySet, clock);
        }

        return current.Entries;
    }

    private sealed record Generation(object? KeySet, MemoryCache Entries)
    {
        public static Generation Of(object? keySet, TimeProvider clock) =>
            new(keySet, new(new MemoryCacheOptions { SizeLimit = MaxEntries, Clock = new Clock(clock) }));
    }

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
