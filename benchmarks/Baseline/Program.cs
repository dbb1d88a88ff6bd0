using System.Text.Json;
using System.Text.Json.Serialization;
using Microsoft.AspNetCore.Authentication;
using Microsoft.IdentityModel.Tokens;
using Npgsql;
using NpgsqlTypes;

// What a request costs at least when each has a query of its own: one delegate, JwtBearer, one prepared statement, generated
// JSON. No validation, no policy but the happy one, no log, no limits: it is what the service is measured against, no example.
var builder = WebApplication.CreateSlimBuilder(args);
builder.Logging.ClearProviders();

var keys = builder.Configuration.GetSection("Authentication:Schemes:Bearer:SigningKeys").GetChildren()
    .Select(key => new SymmetricSecurityKey(Convert.FromBase64String(key["Value"]!))).ToList();
builder.Services.AddAuthentication().AddJwtBearer(options =>
{
    options.MapInboundClaims = false;
    options.TokenValidationParameters.IssuerSigningKeys = keys;
});

await using var dataSource = NpgsqlDataSource.Create(
    "Max Auto Prepare=1;Auto Prepare Min Usages=1;No Reset On Close=true;" + builder.Configuration.GetConnectionString("CalcomAccounts"));
await using var app = builder.Build();
app.UseAuthentication();
app.Run(async context =>
{
    if (context.User.FindFirst("org_id")?.Value is not { } organization)
    {
        await context.ChallengeAsync();
        return;
    }

    // /api/v1/calcom/agents/{agent_id}/account
    var agentId = Guid.Parse(context.Request.Path.Value!.Split('/')[5]);
    await using var command = dataSource.CreateCommand(Baseline.Sql);
    command.Parameters.Add(new NpgsqlParameter<Guid> { TypedValue = agentId });
    command.Parameters.Add(new NpgsqlParameter<Guid> { TypedValue = Guid.Parse(organization) });
    command.Parameters.Add(new NpgsqlParameter { Value = DBNull.Value, NpgsqlDbType = NpgsqlDbType.Text });
    Data? data = null;
    await using (var reader = await command.ExecuteReaderAsync(context.RequestAborted))
    {
        while (await reader.ReadAsync(context.RequestAborted))
        {
            if (data is { Type: "agent" })
            {
                continue;
            }

            data = reader.IsDBNull(1) || !reader.GetBoolean(3) || reader.GetString(5) is "inactive" or "not_connected"
                ? data ?? new Data(false, "none", null, null, null, null)
                : new Data(true, reader.GetBoolean(0) ? "org_linked" : "agent", reader.GetGuid(1), reader.GetString(2), reader.GetString(5), reader.GetString(4));
        }
    }

    context.Response.StatusCode = data is null ? 404 : 200;
    context.Response.ContentType = "application/json; charset=utf-8";
    await JsonSerializer.SerializeAsync(
        context.Response.BodyWriter, new Response(data is not null, "Agent Cal.com account retrieved", data), BaselineJson.Default.Response);
});
await app.RunAsync();

internal static class Baseline
{
    public const string Sql = """
        select account.is_linked, account.id, account.account_name, account.has_api_key, account.api_base_url, account.status
        from calcom.agents agent
        left join lateral (
            select false as is_linked, id, account_name, has_api_key, api_base_url, status
            from calcom.agent_keys
            where org_id = agent.org_id and agent_id = agent.id
            union all
            select true, id, account_name, has_api_key, api_base_url, status
            from calcom.org_accounts
            where org_id = agent.org_id and id = agent.org_account_id
        ) account on true
        where agent.id = $1
          and agent.deleted_at is null
          and case when $3 is null
              then agent.org_id = $2
              else ($2 is null or agent.org_id = $2)
                  and exists (
                      select from calcom.org_members member
                      where member.org_id = agent.org_id and member.subject = $3)
              end
        """;
}

internal sealed record Response(bool Success, string Message, Data? Data);

internal sealed record Data(bool Connected, string Type, Guid? CalcomAccountId, string? AccountName, string? Status, string? ApiBaseUrl);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(Response))]
internal sealed partial class BaselineJson : JsonSerializerContext;
