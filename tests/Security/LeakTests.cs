using CalcomAccounts.Api.Cli;
using CalcomAccounts.Infrastructure;
using CalcomAccounts.Infrastructure.Database;
using CalcomAccounts.Infrastructure.Diagnostics;
using Microsoft.Extensions.Logging;
using Npgsql;

namespace CalcomAccounts.Tests.Security;

/// <summary>No token, signature, key or password reaches a log, a trace or a report, however verbose.</summary>
public sealed class LeakTests(ServiceFixture fixture) : IClassFixture<ServiceFixture>
{
    public static TheoryData<string> Requests()
    {
        const string Path = "/api/v1/calcom/agents/0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01/account";
        return
        [
            $"GET {Path} HTTP/1.1\r\nAuthorization: Bearer $TOKEN",
            $"GET {Path}?access_token=$TOKEN HTTP/1.1\r\nAuthorization: Bearer $TOKEN",
            "GET /api/v1/calcom/agents/$TOKEN/account HTTP/1.1\r\nAuthorization: Bearer $TOKEN",
            "GET /$TOKEN?$TOKEN HTTP/1.1\r\nCookie: $TOKEN",
            "GET /swagger/v1/swagger.json?$TOKEN HTTP/1.1\r\nX: $TOKEN",
            $"GET {Path} HTTP/1.1\r\nAuthorization: Bearer $TOKEN\x01",
            $"GET {Path} HTTP/1.1\r\n$TOKEN",
            $"GET {Path} HTTP/1.1\r\n$TOKEN : x",
            $"$TOKEN {Path} HTTP/1.1\r\nX: y",
            "$TOKEN",
            $"GET {Path} HTTP/$TOKEN\r\nX: y",
            $"GET {Path} HTTP/1.1\r\nAuthorization: Bearer x$TOKEN.$TOKEN",
            $"GET {Path} HTTP/1.1\r\nAuthorization: Basic $TOKEN",
            $"GET {Path} HTTP/1.1\r\nTransfer-Encoding: $TOKEN",
            $"GET {Path} HTTP/1.1\r\nContent-Length: $TOKEN",
        ];
    }

    [Theory]
    [MemberData(nameof(Requests))]
    public async Task TokenAnywhereInARequest_IsNotLogged(string request)
    {
        await RawHttp.SendAsync(
            fixture.Service.Url,
            $"{request.Replace("$TOKEN", Tokens.OfOrganization(Guid.NewGuid()), StringComparison.Ordinal)}\r\nHost: localhost\r\nConnection: close\r\n\r\n");

        Assert.Empty(LeakDetector.Instance.Leaks);
    }

    // Npgsql itself redacts only the detail of an error.
    [Theory]
    [InlineData("message", "P0001")]
    [InlineData("detail and hint", "P0001")]
    [InlineData("context", "22P02")]
    [InlineData("boolean", "22P02")]
    [InlineData("json", "22P02")]
    [InlineData("notice", null)]
    public async Task CredentialInDatabaseError_IsInNoLogTraceOrReport(string kind, string? sqlState)
    {
        var (org, credential) = (Guid.NewGuid(), $"credential{Guid.NewGuid():N}");
        LeakDetector.Watch(credential);
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        var agent = await database.AddAgentAsync(org);
        await database.AddKeyAsync(agent, new() { Name = kind, ApiKey = credential });
        await PoisonAsync(database);
        using var log = new CapturedLog(LogLevel.Trace);
        await using var collector = await TestCollector.StartAsync();
        await using (var service = await TestService.StartAsync(database.ServiceConnectionString, collector.Settings, builder => builder.Logging.AddProvider(log)))
        {
            Assert.Equal(sqlState is null ? 200 : 500, (await service.GetAccountAsync(agent, Tokens.OfOrganization(org))).Status);
            Assert.Equal(sqlState is null ? 200 : 500, (await service.GetAccountsAsync([agent, Guid.NewGuid()], Tokens.OfOrganization(org))).Status);
            await service.SendAsync("GET", "/health/ready");
            await service.StopAsync();
        }

        var report = await DatabaseCheck.RunAsync(database.ServiceConnectionString, isDistributed: false, CancellationToken.None);

        Assert.Equal(sqlState is null, report.Ok);
        Assert.All(
            [string.Join('\n', log.Lines), collector.Text, CheckReport.ToText(report), CheckReport.ToJson(report)],
            output => Assert.DoesNotContain(credential, output, StringComparison.Ordinal));
        Assert.Empty(LeakDetector.Instance.Leaks);
        Assert.Contains(collector.Spans, span => span.Name is "calcom.accounts.lookup");
        if (sqlState is not null)
        {
            // One line per request, without a stack trace.
            var failures = log.Lines.Where(line => line.StartsWith("500 internal_error", StringComparison.Ordinal)).ToList();
            Assert.Equal(2, failures.Count);
            Assert.All(failures, line => Assert.Contains($"SQLSTATE {sqlState}", line, StringComparison.Ordinal));
            Assert.All(failures, line => Assert.DoesNotContain('\n', line));
            Assert.Contains($"SQLSTATE {sqlState}", report.Checks.Single(check => !check.Ok).Detail, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task CredentialInMigrationError_IsNotInTheMessage()
    {
        var owner = await fixture.Server.CreateDatabaseAsync();
        await using var dataSource = NpgsqlDataSource.Create(owner);
        await using var command = dataSource.CreateCommand("""
            create function public.refuse() returns event_trigger language plpgsql as $$
            begin raise exception 'credential' using detail = 'credential', hint = 'credential'; end $$;
            create event trigger refuse on ddl_command_end execute function public.refuse();
            """);
        await command.ExecuteNonQueryAsync();

        var failure = await Assert.ThrowsAsync<StartupException>(() => DatabaseMigrator.MigrateAsync(owner, CancellationToken.None));

        Assert.DoesNotContain("credential", failure.ToString(), StringComparison.Ordinal);
        Assert.Contains("a function raised an exception (SQLSTATE P0001, routine exec_stmt_raise). Nothing was changed", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task CredentialInPrivilegeCheckError_IsNotInTheException()
    {
        var database = await TestDatabase.OfTablesAsync(fixture.Server);
        await PoisonAsync(database);
        await database.ExecuteAsync("create view public.pg_roles as select public.poison('message', 'credential')::oid as oid");
        await using var dataSource = NpgsqlDataSource.Create($"{database.OwnerConnectionString};Search Path=public,pg_catalog");

        var failure = await Assert.ThrowsAsync<DatabaseException>(() => new LoginPrivileges(dataSource).CanReadApiKeyAsync(CancellationToken.None));

        Assert.Equal("P0001", failure.SqlState);
        Assert.DoesNotContain("credential", failure.ToString(), StringComparison.Ordinal);
    }

    /// <summary>Replaces the keys by a view that fails as the name of each key says, and quotes its credential in the error.</summary>
    private static async Task PoisonAsync(TestDatabase database)
    {
        await database.ExecuteAsync("""
            create function public.poison(kind text, credential text) returns text language plpgsql as $$
            begin
                case kind
                    when 'message' then raise exception 'credential %', credential;
                    when 'detail and hint' then raise exception 'see below' using detail = credential, hint = credential;
                    when 'context' then execute format('select %L::int', credential);
                    when 'boolean' then return credential::boolean::text;
                    when 'json' then return (format('{"key": %s}', credential)::jsonb)::text;
                    else raise notice 'credential %', credential; raise warning 'credential %', credential;
                end case;
                return 'active';
            end $$;
            alter table calcom.agent_keys rename to stored_keys;
            do $$ begin
                execute (
                    select format('create view calcom.agent_keys as select %s, public.poison(account_name, api_key) as status from calcom.stored_keys', string_agg(attname, ', '))
                    from pg_attribute
                    where attrelid = 'calcom.stored_keys'::regclass and attnum > 0 and attname not in ('api_key', 'status'));
            end $$;
            grant select on calcom.agent_keys to calcom_reader;
            """);
    }

    [Fact]
    public void LeakDetector_FindsEveryKindOfSecret()
    {
        var token = Tokens.OfOrganization(Guid.NewGuid()).Split('.');

        Assert.All(token, part => Assert.True(LeakDetector.HoldsSecret($"Request starting GET /?token={part}&x HTTP/1.1")));
        Assert.True(LeakDetector.HoldsSecret($"Host=db;Password={TestDatabase.ServicePassword};"));
        Assert.True(LeakDetector.HoldsSecret($"key '{Convert.ToBase64String(Tokens.Key)}'"));
        Assert.True(LeakDetector.HoldsSecret("api_key=cal_secret_0123456789"));
        Assert.False(LeakDetector.HoldsSecret("200 agent agent=0f9d6c1e-3a52-4b7e-9c41-5d2e8a7b6c01"));
    }
}
