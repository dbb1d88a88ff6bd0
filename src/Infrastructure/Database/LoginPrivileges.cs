using Dapper;
using Npgsql;

namespace CalcomAccounts.Infrastructure.Database;

/// <summary>What the service's login may do in the database.</summary>
public sealed class LoginPrivileges(NpgsqlDataSource dataSource)
{
    // As any role that the login is a member of: SET ROLE reaches those that it does not inherit from.
    internal const string CanReadApiKeySql = """
        select exists (
            select from pg_attribute attribute
            join pg_roles role on pg_has_role(role.oid, 'member')
            where attribute.attrelid in (to_regclass('calcom.agent_keys'), to_regclass('calcom.org_accounts'))
              and attribute.attname = 'api_key'
              and not attribute.attisdropped
              and has_column_privilege(role.oid, attribute.attrelid, attribute.attnum, 'select'))
        """;

    /// <summary>Whether an <c>api_key</c> is within its reach; never so where the relations have no such column.</summary>
    /// <exception cref="DatabaseException">The database refused the statement.</exception>
    /// <exception cref="NpgsqlException">The database can't be asked.</exception>
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
