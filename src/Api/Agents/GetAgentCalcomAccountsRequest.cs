using System.ComponentModel.DataAnnotations;
using System.Text.Json;
using System.Text.Json.Serialization;
using CalcomAccounts.Application;

namespace CalcomAccounts.Api.Agents;

/// <summary>A request for many agents.</summary>
/// <param name="AgentIds">Agent UUIDs</param>
/// <param name="OrgId">Fallback organization ID used only when not present in JWT claims; here or in the query</param>
public sealed record GetAgentCalcomAccountsRequest(
    [property: Required, MinLength(1), MaxLength(GetAgentAccounts.MaxAgents)] IReadOnlyList<string> AgentIds, string? OrgId = null);

/// <summary>How bodies of requests are read: an unknown member, and one given twice, are refused.</summary>
[JsonSourceGenerationOptions(
    JsonSerializerDefaults.Strict, PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, Converters = [typeof(TextConverter)])]
[JsonSerializable(typeof(GetAgentCalcomAccountsRequest))]
internal sealed partial class RequestJson : JsonSerializerContext
{
    /// <summary>
    /// Reads what is no text as an empty one, which no validator takes for a UUID: so the answer names the element that is wrong, and a
    /// member that does not count may be anything.
    /// </summary>
    private sealed class TextConverter : JsonConverter<string>
    {
        public override string Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
        {
            if (reader.TokenType is JsonTokenType.String)
            {
                try
                {
                    return reader.GetString()!;
                }
                catch (InvalidOperationException)
                {
                    // An escape that is half a character.
                    return "";
                }
            }

            reader.Skip();
            return "";
        }

        public override void Write(Utf8JsonWriter writer, string value, JsonSerializerOptions options) => writer.WriteStringValue(value);
    }
}
