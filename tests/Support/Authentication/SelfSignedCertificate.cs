using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace CalcomAccounts.Tests.Support.Authentication;

internal static class SelfSignedCertificate
{
    /// <returns>A new PKCS #12 file with a certificate for localhost, which the caller deletes.</returns>
    public static async Task<string> WriteAsync(string password)
    {
        var file = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid()}.pfx");
        using var key = ECDsa.Create();
        using var certificate = new CertificateRequest("CN=localhost", key, HashAlgorithmName.SHA256).CreateSelfSigned(DateTimeOffset.UtcNow, DateTimeOffset.UtcNow.AddDays(1));
        await File.WriteAllBytesAsync(file, certificate.Export(X509ContentType.Pkcs12, password));
        return file;
    }
}
