using System.Buffers.Binary;
using System.Security.Claims;
using System.Security.Cryptography;
using System.Text;
using BitFaster.Caching.Lru;

namespace CalcomAccounts.Api.Authentication;

/// <summary>
/// Whose the tokens are that were validated lately, by the SHA-256 of the whole token, while the keys that validated them
/// are in force. It holds neither tokens nor anything of one that was refused.
/// </summary>
internal sealed class TokenCache(TimeProvider clock)
{
    /// <summary>How many tokens are remembered; the one that was used least recently makes room.</summary>
    internal const int Capacity = 65_536;

    private const int UsualLength = 2048;
    private static readonly TimeSpan s_maxAge = TimeSpan.FromSeconds(60);

    private readonly ConcurrentLru<Hash, Entry> _entries = new(Capacity);

    /// <summary>The bearer of a token that was validated by keys that are in force; null where it has to be validated again.</summary>
    /// <param name="token">The whole token, as it was sent.</param>
    public ClaimsPrincipal? Find(string token) =>
        _entries.TryGet(Hash.Of(token), out var entry) && entry.Until > clock.GetUtcNow() && entry.KeySet.IsCurrent ? entry.User : null;

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
            _entries.AddOrUpdate(Hash.Of(token), new(keySet, user, until));
        }
    }

    private sealed record Entry(KeySet KeySet, ClaimsPrincipal User, DateTimeOffset Until);

    private readonly record struct Hash(UInt128 First, UInt128 Second)
    {
        public static Hash Of(string token)
        {
            Span<byte> usual = stackalloc byte[UsualLength];
            Span<byte> hash = stackalloc byte[SHA256.HashSizeInBytes];
            SHA256.HashData(Encoding.UTF8.TryGetBytes(token, usual, out var length) ? usual[..length] : Encoding.UTF8.GetBytes(token), hash);
            return new(BinaryPrimitives.ReadUInt128BigEndian(hash), BinaryPrimitives.ReadUInt128BigEndian(hash[16..]));
        }
    }
}
