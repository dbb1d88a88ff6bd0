namespace CalcomAccounts.Infrastructure;

/// <summary>The service can't start, or a command failed. The message is one line for the operator, without secrets.</summary>
public sealed class StartupException(string message, Exception? innerException = null) : Exception(message, innerException);
