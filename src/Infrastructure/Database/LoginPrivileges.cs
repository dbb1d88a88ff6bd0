using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>Checks the privileges of the service's login in the database.</summary>
public sealed class LoginPrivileges(NpgsqlDataSource dataSource)
{
    // Includes every role that the login is a member of, because it may SET ROLE even to one whose privileges it doesn't inherit.
    internal const string CanReadApiKeySql = """
        select exists (
            select from pg_attribute attribute
            join pg_roles role on pg_has_role(role.oid, 'member')
            where attribute.attrelid in (to_regclass('calcom.agent_keys'), to_regclass('calcom.org_accounts'))
              and attribute.attname = 'api_key'
              and not attribute.attisdropped
              and has_column_privilege(role.oid, attribute.attrelid, attribute.attnum, 'select'))
        """;

    /// <summary>Whether the login can read a column <c>api_key</c>; false where the relations have none.</summary>
    /// <exception cref="DatabaseException">The database reported an error.</exception>
    /// <exception cref="NpgsqlException">The database can't be reached.</exception>
    public async Task<bool> CanReadApiKeyAsync(CancellationToken cancellationToken)
    {
        try
        {
            await using var connection = await dataSource.OpenConnectionAsync(cancellationToken);
            return await connection.ExecuteScalarAsync<bool>(new CommandDefinition(CanReadApiKeySql, cancellationToken: cancellationToken));
        }
        catch (PostgresException exception)
        {
            throw DatabaseException.From(exception);
        }
    }
}
