using System.Text.Json;
using CalcomAccounts.Api.Agents;
using CalcomAccounts.Api.Http;
using CalcomAccounts.Application;
using CalcomAccounts.Domain;
using Newtonsoft.Json.Linq;
using NJsonSchema;
using NJsonSchema.Generation;
using NSwag;
using NSwag.Generation;
using NSwag.Generation.Processors;
using NSwag.Generation.Processors.Contexts;

namespace CalcomAccounts.Api.OpenApi;

/// <summary>
/// The OpenAPI document and its page. The document is the platform's own, cut to this service's operation and with those that
/// it adds: what NSwag reads from the controller is completed here with what only the platform knows.
/// </summary>
internal static class ApiDocument
{
    /// <summary>Of the page's scripts, styles and icons: nothing else of the service may be cached.</summary>
    public const string AssetCacheControl = "public, max-age=3600";

    private const int MaxAnswers = 32;
    private const string DocumentName = "v1";
    private const string DocumentPath = $"/swagger/{DocumentName}/swagger.json";
    private const string UrlPlaceholder = "<url>";
    private const string PlatformUrl = "https://api.ravan.ai";
    private const string BearerScheme = "BearerAuth";
    private const string ApiKeyScheme = "X-Api-Key";
    private const string Placeholder = "<string>";
    private const string OrgIdDescription = "Fallback organization ID used only when not present in JWT claims";

    // Each holds 128 KB while its client reads an asset, and the document is written anew for each; a browser has 6 at once.
    private static readonly SemaphoreSlim s_answers = new(MaxAnswers);

    private static readonly AgentCalcomEffectiveAccountData s_account =
        new(true, Placeholder, Placeholder, Placeholder, Placeholder, Placeholder);

    private static readonly GetAgentCalcomAccountResponse s_retrieved = new(true, "Agent Cal.com account retrieved", s_account);

    private static readonly ExplainAgentCalcomAccountResponse s_explained = new(
        true, "Agent Cal.com account explained", new(s_account, [new(Placeholder, Placeholder, Placeholder, Placeholder)]));

    private static readonly GetAgentCalcomAccountsResponse s_manyRetrieved = new(
        true, "Agent Cal.com accounts retrieved", new([new(Placeholder, s_account), new(Placeholder, null)]));

    private static readonly ListAgentCalcomAccountsResponse s_listed = new(
        true, "Agent Cal.com accounts retrieved", new([new(Placeholder, Placeholder, s_account)], Placeholder));

    private static readonly UnauthorizedResponse s_unauthorized = new(false, Placeholder);

    private static readonly Dictionary<string, object> s_successes = new()
    {
        [nameof(AgentsController.GetAgentCalcomAccount)] = s_retrieved,
        [nameof(AgentsController.ExplainAgentCalcomAccount)] = s_explained,
        [nameof(AgentsController.GetAgentCalcomAccounts)] = s_manyRetrieved,
        [nameof(AgentsController.ListAgentCalcomAccounts)] = s_listed,
    };

    private static readonly Dictionary<string, object> s_failures = new()
    {
        ["400"] = ErrorResponse.InvalidRequest(Placeholder),
        ["401"] = s_unauthorized,
        ["403"] = ErrorResponse.Forbidden with { Message = Placeholder },
        ["404"] = ErrorResponse.AgentNotFound with { Message = Placeholder },
        ["415"] = ErrorResponse.UnsupportedMediaType with { Message = Placeholder },
        ["429"] = ErrorResponse.TooManyRequests with { Message = Placeholder },
        ["500"] = ErrorResponse.InternalError with { Message = Placeholder },
    };

    public static IServiceCollection AddOpenApi(this IServiceCollection services) => services.AddOpenApiDocument(settings =>
    {
        settings.DocumentName = DocumentName;
        settings.Title = "Agni API";
        settings.Version = "1.0.0";
        settings.Description =
            "Agni API for managing agents, tools, widget settings, telephony, and integrations.";
        settings.SchemaSettings = new SystemTextJsonSchemaGeneratorSettings
        {
            SerializerOptions = ResponseJson.Context.Options,
            SchemaType = SchemaType.OpenApi3,
            AlwaysAllowAdditionalObjectProperties = true,
        };

        // HEAD is GET without a body; documenting it would make a second operation of it.
        settings.OperationProcessors.Add(new OperationProcessor(context => context.OperationDescription.Method != OpenApiOperationMethod.Head));
        settings.OperationProcessors.Add(new OperationProcessor(AddBody));
        settings.PostProcess = Complete;
    }).AddResponseCompression(compression =>
    {
        // Only the page's scripts and styles: compressed together with what a caller sends, a secret could be guessed by its length (BREACH).
        compression.MimeTypes = ["text/css", "text/javascript"];
        compression.EnableForHttps = true;
    });

    /// <summary>Serves both under <c>/swagger</c>.</summary>
    public static void UseOpenApiPage(this IApplicationBuilder app) => app.MapWhen(
        context => context.Request.Path.StartsWithSegments("/swagger"),
        branch =>
        {
            // NSwag is loaded by whoever asks for it first, not by every start.
            var page = new Lazy<RequestDelegate>(() => Build(branch.New()));
            branch.Run(async context =>
            {
                context.Response.OnStarting(KeepAssets, context.Response);
                if (!s_answers.Wait(0))
                {
                    context.Response.StatusCode = StatusCodes.Status429TooManyRequests;
                    context.Response.Headers.RetryAfter = "1";
                    return;
                }

                try
                {
                    await page.Value(context);
                }
                finally
                {
                    s_answers.Release();
                }
            });
        });

    // Only static files have an ETag, not the document.
    private static Task KeepAssets(object state)
    {
        var response = (HttpResponse)state;
        if (response.Headers.ETag.Count > 0 && response.StatusCode < StatusCodes.Status400BadRequest)
        {
            response.Headers.CacheControl = AssetCacheControl;
        }

        return Task.CompletedTask;
    }

    // NSwag's own middleware believes every X-Forwarded-* header and Host, and keeps a document, or an error, for others.
    private static RequestDelegate Build(IApplicationBuilder app)
    {
        string? written = null;
        app.UseResponseCompression();
        app.Use(async (context, next) =>
        {
            if (context.Request.Path != DocumentPath)
            {
                await next(context);
                return;
            }

            written ??= await WriteAsync(app.ApplicationServices.GetRequiredService<IOpenApiDocumentGenerator>());
            context.Response.ContentType = "application/json; charset=utf-8";
            await context.Response.WriteAsync(written.Replace(UrlPlaceholder, FindBase(context.Request) is { Length: > 0 } url ? url : "/", StringComparison.Ordinal));
        });
        app.UseSwaggerUi(page =>
        {
            page.DocExpansion = "list";
            page.TransformToExternalPath = (path, request) => FindBase(request) + path;
        });
        return app.Build();
    }

    /// <returns>What the document is for all callers, with a placeholder for the URL by which each reaches the service.</returns>
    private static async Task<string> WriteAsync(IOpenApiDocumentGenerator generator)
    {
        var document = await generator.GenerateAsync(DocumentName);
        document.Servers.Clear();
        document.Servers.Add(new() { Url = UrlPlaceholder });
        document.Servers.Add(new() { Url = PlatformUrl });
        return document.ToJson();
    }

    /// <returns>The path before the service's own, encoded. One slash: two would be another host's URL.</returns>
    private static string FindBase(HttpRequest request) =>
        request.PathBase.ToUriComponent().Trim('/') is { Length: > 0 } path ? $"/{path}" : "";

    private static void Complete(OpenApiDocument document)
    {
        document.Generator = null;
        document.Tags = [.. document.Operations.SelectMany(operation => operation.Operation.Tags).Distinct().Select(tag => new OpenApiTag { Name = tag, Description = "The Cal.com accounts of agents." })];
        document.Components.SecuritySchemes[ApiKeyScheme] = new()
        {
            Type = OpenApiSecuritySchemeType.ApiKey,
            In = OpenApiSecurityApiKeyLocation.Header,
            Name = ApiKeyScheme,
        };
        document.Components.SecuritySchemes[BearerScheme] = new()
        {
            Type = OpenApiSecuritySchemeType.Http,
            Scheme = "bearer",
            BearerFormat = "JWT",
        };
        document.Security = [new() { [ApiKeyScheme] = [] }];

        // Keys are absent, never null, but for one: an agent among many that is not there. OpenAPI 3.0 has no null beside a reference.
        var schemas = document.Components.Schemas;
        var account = schemas[nameof(AgentCalcomEffectiveAccountData)];
        var nullable = schemas[$"Nullable{nameof(AgentCalcomEffectiveAccountData)}"] = NullableCopy(account);
        foreach (var property in schemas.Values.SelectMany(schema => schema.ActualProperties.Values))
        {
            property.IsNullableRaw = null;
            if (property.OneOf.FirstOrDefault()?.Reference is { } referenced)
            {
                property.OneOf.Clear();
                property.AllOf.Add(new() { Reference = referenced });
            }
        }

        schemas[nameof(AgentCalcomAccountData)].Properties["account"] = new() { Reference = nullable };

        foreach (var example in new object[] { s_retrieved, s_account, s_unauthorized })
        {
            schemas[example.GetType().Name].Example = AsSent(example);
        }

        foreach (var description in document.Operations)
        {
            Complete(description.Operation, description.Path);
        }
    }

    private static JsonSchema NullableCopy(JsonSchema schema)
    {
        var copy = new JsonSchema { Type = schema.Type, IsNullableRaw = true, Description = $"{schema.Description} Null for an agent that is not found." };
        foreach (var (name, property) in schema.Properties)
        {
            copy.Properties[name] = new() { Type = property.Type, Description = property.Description };
        }

        return copy;
    }

    private static void Complete(OpenApiOperation operation, string path)
    {
        operation.Security = [new() { [BearerScheme] = [] }];
        var body = operation.RequestBody;
        operation.Parameters.Clear();
        operation.RequestBody = body;
        if (path.Contains("{agent_id}", StringComparison.Ordinal))
        {
            operation.Parameters.Add(Parameter("agent_id", OpenApiParameterKind.Path, "Agent UUID"));
        }

        operation.Parameters.Add(Parameter("org_id", OpenApiParameterKind.Query, OrgIdDescription));

        if (operation.OperationId is nameof(AgentsController.ListAgentCalcomAccounts))
        {
            AddListParameters(operation);
        }

        // What all operations have in common is read before what each has of its own.
        var responses = operation.Responses.OrderBy(response => response.Key).ToList();
        operation.Responses.Clear();
        foreach (var (status, response) in responses)
        {
            operation.Responses.Add(status, response);
            response.Content["application/json"].Example = AsSent(status is "200" ? s_successes[operation.OperationId] : s_failures[status]);
        }
    }

    private static void AddListParameters(OpenApiOperation operation)
    {
        var connected = Parameter("connected", OpenApiParameterKind.Query, "Only agents that use an account, or only those that use none");
        connected.Schema.Type = JsonObjectType.Boolean;
        var type = Parameter("type", OpenApiParameterKind.Query, "Only agents whose account is of this type");
        foreach (var name in Enum.GetValues<AccountType>().Select(WireNames.Of))
        {
            type.Schema.Enumeration.Add(name);
        }

        var limit = Parameter("limit", OpenApiParameterKind.Query, "How many agents the page has at most");
        limit.Schema.Type = JsonObjectType.Integer;
        limit.Schema.Minimum = 1;
        limit.Schema.Maximum = ListAgentAccounts.MaxLimit;
        limit.Schema.Default = ListAgentAccounts.DefaultLimit;
        OpenApiParameter[] parameters =
        [
            connected,
            type,
            Parameter("status", OpenApiParameterKind.Query, "Only agents whose account has this status, in any letter case"),
            Parameter("calcom_account_id", OpenApiParameterKind.Query, "Only agents that use this account"),
            limit,
            Parameter("after", OpenApiParameterKind.Query, "The value of next of the page before"),
        ];
        foreach (var parameter in parameters)
        {
            operation.Parameters.Add(parameter);
        }
    }

    // NSwag sees no body in an action whose query a binder of ours makes of it.
    private static bool AddBody(OperationProcessorContext context)
    {
        if (context.MethodInfo.Name is nameof(AgentsController.GetAgentCalcomAccounts))
        {
            var schema = context.SchemaGenerator.Generate(typeof(GetAgentCalcomAccountsRequest), context.SchemaResolver);
            schema.AllowAdditionalProperties = false;
            context.OperationDescription.Operation.RequestBody = new()
            {
                IsRequired = true,
                Content = { ["application/json"] = new() { Schema = new() { Reference = schema }, Example = new JObject { ["agent_ids"] = new JArray(Placeholder) } } },
            };
        }

        return true;
    }

    // NSwag writes by Newtonsoft.Json, which knows nothing of how answers are named.
    private static JToken AsSent(object response) =>
        JToken.Parse(JsonSerializer.Serialize(response, response.GetType(), ResponseJson.Context));

    private static OpenApiParameter Parameter(string name, OpenApiParameterKind kind, string description) => new()
    {
        Name = name,
        Kind = kind,
        IsRequired = kind is OpenApiParameterKind.Path,
        Description = description,
        Schema = new() { Type = JsonObjectType.String },
    };
}
