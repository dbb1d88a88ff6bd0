using System.Globalization;
using System.Text;
using System.Text.Json;
using CalcomAccounts.Api.Http;
using CalcomAccounts.Infrastructure.Diagnostics;

namespace CalcomAccounts.Api.Cli;

/// <summary>What <c>check</c> prints: text for an operator, or one line of JSON for a program.</summary>
internal static class CheckReport
{
    public static string ToJson(DatabaseReport report) => JsonSerializer.Serialize(report, ResponseJson.Context.DatabaseReport);

    public static string ToText(DatabaseReport report)
    {
        var text = new StringBuilder().AppendLine(report.Database).AppendLine();
        foreach (var check in report.Checks)
        {
            text.AppendLine(CultureInfo.InvariantCulture, $"{(check.Ok ? "ok  " : "FAIL")}  {check.Name,-20}  {check.Detail}");
        }

        if (report.Data is { } data)
        {
            text.AppendLine();
            foreach (var (count, meaning) in new[]
            {
                (data.Agents, "agents that are not deleted"),
                (data.TwoConnectedKeys, "of them have two connected keys or more: the newest is used"),
                (data.KeyAndLink, "of them have a connected key and a link: the key is used"),
                (data.DanglingLink, "of them are linked to an account that does not exist: the link is ignored"),
                (data.ForeignLink, "of them are linked to another organization's account: the link is ignored"),
                (data.BlankName, "keys and accounts have a blank name: they are called Default"),
                (data.LongText, "keys and accounts have a text that is too long: it is cut after 2048 characters"),
            })
            {
                text.AppendLine(CultureInfo.InvariantCulture, $"{count,10}  {meaning}");
            }
        }

        var failed = report.Checks.Count(check => !check.Ok);
        return text.AppendLine().Append(failed switch
        {
            0 => "The database has everything that the service needs.",
            1 when report.Checks.Count is 1 => "The database could not be reached.",
            _ => $"The service can not use this database: {failed} {(failed is 1 ? "check" : "checks")} failed.",
        }).ToString();
    }
}
