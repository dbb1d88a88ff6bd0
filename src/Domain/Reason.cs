namespace CalcomAccounts.Domain;

/// <summary>Why a <see cref="Candidate"/> is used or not.</summary>
public enum Reason
{
    /// <summary>It is the effective account.</summary>
    Used,

    /// <summary>It is connected, but so is a candidate before it.</summary>
    Outranked,

    /// <summary>It was disconnected, which usually clears its key too.</summary>
    Inactive,

    /// <summary>It has no usable credential, although it was not disconnected.</summary>
    NoCredential,

    /// <summary>The agent is linked to no account.</summary>
    NotLinked,

    /// <summary>The agent is linked to an account that is missing or belongs to another organization.</summary>
    Unavailable,
}
