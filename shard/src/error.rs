//! What can go wrong in the store, in terms its callers can act on.

use crate::ids::{IdError, ShardName};

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation that was not done. Nothing of it was stored, except where a variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input breaks a rule; the text names the field and the rule.
    #[error("{0}")]
    Invalid(String),
    /// The thing does not exist (any more): a message, a member.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The caller is not a member of the conversation, or there is none: the two are not told apart.
    #[error("you are not a member of this conversation")]
    NotMember,
    /// A member whose role, or whose relation to the message, does not allow this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// This client message id or idempotency key was used before for something else; the text says for what.
    #[error("{0}")]
    IdempotencyConflict(&'static str),
    /// The state of the conversation does not allow this.
    #[error("{0}")]
    Conflict(&'static str),
    /// A configured bound is reached (INV-BOUND).
    #[error("{what}: at most {max}")]
    LimitReached {
        /// What is bounded, in words.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// The shard's write queue is full; nothing was queued. Retry later.
    #[error("shard {0} has more to write than it can take just now")]
    Overloaded(ShardName),
    /// The shard does not answer, or its circuit breaker is open. Retry later.
    #[error("shard {0} is unavailable")]
    ShardUnavailable(ShardName),
    /// The deadline passed first. A write may or may not have happened; repeating it with its client message id is safe.
    #[error("the deadline passed before the operation was done")]
    DeadlineExceeded,
    /// The shard does not own the key, or not at the epoch the map says. The store refreshes its map and retries.
    #[error("shard {0} does not own this key at this epoch")]
    NotOwner(ShardName),
    /// Archived messages are needed and the archive cannot be read.
    #[error("the archive cannot be read just now")]
    ArchiveUnavailable,
    /// An archived frame is not what was written. The text names the segment and the frame; it is for operators.
    #[error("archived messages are damaged: {0}")]
    ArchiveDamaged(String),
    /// Another job works on the range.
    #[error("{0}")]
    Busy(String),
    /// A job's lease ended and somebody else works on the range now; what the job had committed stays.
    #[error("another job has taken over the range on shard {0}")]
    LeaseLost(ShardName),
    /// A database is not the one that its address stands for. The text names both, and says what to do; for operators.
    #[error("{0}")]
    WrongDatabase(String),
    /// The deployment is not made yet, or not brought up to this version; the text says which command does that.
    #[error("{0}")]
    Unprepared(String),
    /// This machine's clock and a database's differ by more than is believed.
    #[error("{0}")]
    ClocksDiffer(String),
    /// The directory has no usable map, or cannot be reached when there is none cached.
    #[error("the directory is unavailable: {0}")]
    DirectoryUnavailable(String),
    /// The store is shutting down and takes nothing new.
    #[error("shutting down")]
    Closing,
    /// The database failed in a way that is none of the above. Details are for the log, not for the caller.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A stored value does not have the form it must have.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
}

impl Error {
    /// Whether the same call may succeed when it is simply made again later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded(_)
            | Self::ShardUnavailable(_)
            | Self::DeadlineExceeded
            | Self::NotOwner(_)
            | Self::ArchiveUnavailable
            | Self::Busy(_)
            | Self::WrongDatabase(_)
            | Self::ClocksDiffer(_)
            | Self::DirectoryUnavailable(_)
            | Self::Closing => true,
            Self::Database(error) => is_transient(error),
            _ => false,
        }
    }

    /// The same for another caller whom it met too; what only the log needs is left to the first.
    #[must_use]
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::ShardUnavailable(shard) => Self::ShardUnavailable(shard.clone()),
            Self::Overloaded(shard) => Self::Overloaded(shard.clone()),
            Self::DeadlineExceeded => Self::DeadlineExceeded,
            Self::DirectoryUnavailable(why) => Self::DirectoryUnavailable(why.clone()),
            Self::WrongDatabase(why) => Self::WrongDatabase(why.clone()),
            Self::Closing => Self::Closing,
            other => Self::Corrupt(other.to_string()),
        }
    }

    /// An [`Error::Invalid`] about `field`.
    #[must_use]
    pub fn invalid(field: &str, rule: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("{field}: {rule}"))
    }
}

impl From<IdError> for Error {
    fn from(error: IdError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// MySQL error numbers after which the whole transaction may simply be run again: deadlock, lock wait timeout.
/// Source: MySQL 8.4 error reference, `ER_LOCK_WAIT_TIMEOUT`, `ER_LOCK_DEADLOCK`; MariaDB adds 1020 `ER_CHECKREAD`.
const MYSQL_RERUN: [u16; 3] = [1205, 1213, 1020];

/// Whether a transaction that met `error` was rolled back because of others, and may be run again at once.
#[must_use]
pub fn is_contention(error: &sqlx::Error) -> bool {
    let Some(database) = error.as_database_error() else {
        return false;
    };
    if let Some(mysql) = database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return MYSQL_RERUN.contains(&mysql.number());
    }
    matches!(sqlite_code(database), Some(5 | 6)) // SQLITE_BUSY, SQLITE_LOCKED
}

/// Whether a row with these values of a unique key is there already.
#[must_use]
pub(crate) fn is_unique_violation(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether a column or an index that was to be added is there already. Source: MySQL 8.4 error reference,
/// `ER_DUP_FIELDNAME` and `ER_DUP_KEYNAME`.
#[must_use]
pub(crate) fn is_there_already(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|database| database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>())
        .is_some_and(|mysql| matches!(mysql.number(), 1060 | 1061))
}

/// Whether a statement named a table that is not there. Source: MySQL 8.4 error reference, `ER_NO_SUCH_TABLE`; SQLite says
/// so only in words.
#[must_use]
pub fn is_table_missing(error: &sqlx::Error) -> bool {
    let Some(database) = error.as_database_error() else {
        return false;
    };
    match database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        Some(mysql) => mysql.number() == 1146,
        None => database.message().starts_with("no such table"),
    }
}

/// SQLite's primary result code, without what extends it: <https://sqlite.org/rescode.html>
fn sqlite_code(error: &dyn sqlx::error::DatabaseError) -> Option<i32> {
    let code: i32 = error.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether `error` is about the connection or the server, not about the statement.
#[must_use]
pub fn is_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => {
            let Some(mysql) = database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() else {
                // SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN: the file or its disk.
                return matches!(sqlite_code(database.as_ref()), Some(10 | 13 | 14));
            };
            // Too many connections, server shutdown, connection killed, access denied while failing over, read-only:
            // ER_CON_COUNT_ERROR, ER_SERVER_SHUTDOWN, ER_NEW_ABORTING_CONNECTION, ER_CONNECTION_KILLED (MariaDB 1927),
            // ER_OPTION_PREVENTS_STATEMENT.
            matches!(mysql.number(), 1040 | 1053 | 1184 | 1927 | 1290)
        }
        _ => false,
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    is_contention(error) || is_connection(error)
}
