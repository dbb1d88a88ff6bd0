namespace CalcomAccounts.Infrastructure;

/// <summary>The service can't start, or a command can't do its work. The message is one line for the person who started it, without a secret.</summary>
public sealed class StartupException(string message, Exception? innerException = null) : Exception(message, innerException);
