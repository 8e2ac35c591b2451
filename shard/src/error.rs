//! What can go wrong in the store, in terms its callers can act on.
//!
//! What a database says instead of a result is one of three, and [`classify`] alone decides which:
//!
//! | the error | said about | what follows |
//! |---|---|---|
//! | [`Error::Statement`] | this statement: a key that is taken, a value that does not fit, its syntax | a caller that expects it goes on; else it is a fault of this program |
//! | [`Error::Contention`] | other transactions: a deadlock, a lock that was not had in time | the transaction is run again; see [`Shard::transaction`](crate::node::Shard::transaction) |
//! | [`Error::DatabaseUnavailable`] | the database: read-only, full, at a limit, stopping, gone, **or anything unknown** | not now: the connection is given up, and on a shard it becomes [`Error::ShardUnavailable`] |
//!
//! Errors that nobody has met yet are of the last kind, so only the first two name what they consist of. Stored data is
//! called damaged ([`Error::Corrupt`]) only by code of this crate that has looked at it, never because a database
//! refused something.

use std::fmt;

use crate::guard::Refusal;
use crate::ids::{IdError, ShardName};
use crate::sanctions::Sanctioned;

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation that was not done. Nothing of it was stored, except where a variant says otherwise. A clone is the same
/// error for another caller.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// A moderator's sanction forbids this to the caller; the text says until when, and why.
    #[error("{0}")]
    Sanctioned(Box<Sanctioned>),
    /// One of two users blocks the other; which one is not said ([`crate::blocks`]).
    #[error("this user does not accept it from you, or you block them")]
    NotAccepted,
    /// This client message id or idempotency key was used before for something else; the text says for what.
    #[error("{0}")]
    IdempotencyConflict(&'static str),
    /// The state of the conversation does not allow this.
    #[error("{0}")]
    Conflict(&'static str),
    /// The state of a file does not allow this.
    #[error(transparent)]
    Media(MediaFault),
    /// A configured bound is reached (INV-BOUND).
    #[error("{what}: at most {max}")]
    LimitReached {
        /// What is bounded, in words.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// The caller does this more often than a rule allows; nothing was done. Retry after the time that it names.
    #[error("{0}")]
    RateLimited(Box<Refusal>),
    /// The shard's write queue is full, or too much waits for the owner of a range that moves; nothing was queued. Retry later.
    #[error("shard {0} has more to write than it can take just now")]
    Overloaded(ShardName),
    /// So many searches wait on this node that this one cannot. Retry later.
    #[error("too many searches at once; try again later")]
    SearchesFull,
    /// The shard's database cannot do it now, whatever the reason; its words are in the log. A write may or may not have
    /// happened; repeating it with its client message id is safe. Retry later.
    #[error("shard {0} is unavailable")]
    ShardUnavailable(ShardName),
    /// A connection ended in the middle of reading, or its session could not go on. The same may be read again at once, over
    /// another one, which [`Router::call`](crate::routing::Router::call) does once.
    #[error("reading from shard {0} was interrupted")]
    Interrupted(ShardName),
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
    /// The database refused a statement for what it says. A caller that expects the fault goes on; for all others it is a
    /// fault of this program. The words are the database's, for the log.
    #[error("database: {words}")]
    Statement {
        /// What is wrong with it.
        fault: StatementFault,
        /// What the database says.
        words: String,
    },
    /// The transaction was undone because of others that ran at the same time. It may be run again at once.
    #[error("database: {0}")]
    Contention(String),
    /// A database cannot do it now, in its own words. On a shard this becomes [`Error::ShardUnavailable`].
    #[error("database: {0}")]
    DatabaseUnavailable(String),
    /// A stored value does not have the form it must have.
    #[error("stored data is damaged: {0}")]
    Corrupt(Damage),
    /// Something happened that cannot, whatever is stored and whatever fails: a fault of this program.
    #[error("a fault of this program: {0}")]
    Unexpected(&'static str),
}

impl Error {
    /// Whether the same call may succeed when it is simply made again later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::RateLimited(_)
                | Self::Overloaded(_)
                | Self::SearchesFull
                | Self::ShardUnavailable(_)
                | Self::Interrupted(_)
                | Self::DeadlineExceeded
                | Self::NotOwner(_)
                | Self::ArchiveUnavailable
                | Self::Busy(_)
                | Self::WrongDatabase(_)
                | Self::ClocksDiffer(_)
                | Self::DirectoryUnavailable(_)
                | Self::Closing
                | Self::Contention(_)
                | Self::DatabaseUnavailable(_)
        )
    }

    /// Whether one thing that was asked for is at fault, so that others, asked for by themselves, may succeed.
    #[must_use]
    pub(crate) fn is_of_one_entry(&self) -> bool {
        matches!(self, Self::Statement { .. } | Self::Corrupt(_))
    }

    /// Whether a connection is as good as before after a statement ended with this.
    #[must_use]
    pub(crate) fn spares_the_connection(&self) -> bool {
        match self {
            Self::Statement { fault, .. } => *fault != StatementFault::TooLarge,
            Self::Contention(_) => true,
            _ => false,
        }
    }

    /// The same error, of work in the directory's database.
    #[must_use]
    pub(crate) fn in_directory(self) -> Self {
        match self {
            Self::DatabaseUnavailable(why) | Self::Contention(why) => {
                Self::DirectoryUnavailable(why)
            }
            other => other,
        }
    }

    /// An [`Error::Invalid`] about `field`.
    #[must_use]
    pub fn invalid(field: &str, rule: impl fmt::Display) -> Self {
        Self::Invalid(format!("{field}: {rule}"))
    }

    /// An [`Error::Corrupt`]: only for code that has looked at stored data and says what about it cannot be.
    #[must_use]
    pub(crate) fn corrupt(what: impl fmt::Display) -> Self {
        Self::Corrupt(Damage(what.to_string()))
    }
}

impl From<IdError> for Error {
    fn from(error: IdError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// What about stored data cannot be. Only this crate can say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage(String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the state of a file does not allow what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaFault {
    /// Its upload was not completed, or it was rejected.
    #[error(
        "the file is not ready: complete its upload first; a rejected one has to be uploaded anew"
    )]
    NotReady,
    /// A message uses it.
    #[error("a message uses the file; delete the message")]
    InUse,
}

/// What a database finds wrong with a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementFault {
    /// The value of a unique key is taken.
    UniqueKey,
    /// A table that it names is not there.
    MissingTable,
    /// A column or an index that it adds is there already.
    AlreadyThere,
    /// It is larger than the server takes; the server has closed the connection.
    TooLarge,
    /// Anything else about what it says: a value that does not fit its column, a broken constraint, its syntax.
    Other,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        classify(&error)
    }
}

/// The one place that decides what an error of a database means.
fn classify(error: &sqlx::Error) -> Error {
    let words = error.to_string();
    let Some(database) = error.as_database_error() else {
        return Error::DatabaseUnavailable(words);
    };
    let verdict = match database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        Some(mysql) => of_mysql(mysql.number(), mysql.code().unwrap_or_default()),
        None => of_sqlite(
            database.code().and_then(|code| code.parse().ok()),
            database.message(),
        ),
    };
    match verdict {
        Verdict::Statement(fault) => Error::Statement { fault, words },
        Verdict::Contention => Error::Contention(words),
        Verdict::NotNow => Error::DatabaseUnavailable(words),
    }
}

/// What the code of an error says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Statement(StatementFault),
    Contention,
    NotNow,
}

/// By the number and the SQLSTATE. Sources: MySQL 8.4 error message reference, MariaDB error codes.
fn of_mysql(number: u16, state: &str) -> Verdict {
    match number {
        // ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK, and MariaDB's ER_CHECKREAD: a row changed under a snapshot.
        1205 | 1213 | 1020 => Verdict::Contention,
        // ER_DUP_ENTRY, ER_DUP_KEY, ER_DUP_ENTRY_WITH_KEY_NAME
        1062 | 1022 | 1586 => Verdict::Statement(StatementFault::UniqueKey),
        // ER_NO_SUCH_TABLE
        1146 => Verdict::Statement(StatementFault::MissingTable),
        // ER_DUP_FIELDNAME, ER_DUP_KEYNAME
        1060 | 1061 => Verdict::Statement(StatementFault::AlreadyThere),
        // ER_NET_PACKET_TOO_LARGE
        1153 => Verdict::Statement(StatementFault::TooLarge),
        // The name of a column, a key, a function or a variable; syntax; placeholders: ER_BAD_FIELD_ERROR,
        // ER_PARSE_ERROR, ER_EMPTY_QUERY, ER_KEY_COLUMN_DOES_NOT_EXITS, ER_CANT_DROP_FIELD_OR_KEY, ER_WRONG_VALUE_COUNT,
        // ER_SYNTAX_ERROR, ER_KEY_DOES_NOT_EXITS, ER_UNKNOWN_SYSTEM_VARIABLE, ER_WRONG_ARGUMENTS, ER_SP_DOES_NOT_EXIST,
        // ER_PS_MANY_PARAM, ER_WRONG_PARAMCOUNT_TO_NATIVE_FCT
        1054 | 1064 | 1065 | 1072 | 1091 | 1136 | 1149 | 1176 | 1193 | 1210 | 1305
        | 1390 | 1582
        // A value: ER_TOO_BIG_ROWSIZE, ER_NO_DEFAULT_FOR_FIELD, ER_TRUNCATED_WRONG_VALUE_FOR_FIELD,
        // ER_INVALID_JSON_TEXT, ER_CHECK_CONSTRAINT_VIOLATED and MariaDB's ER_CONSTRAINT_FAILED
        | 1118 | 1364 | 1366 | 3140 | 3819 | 4025 => Verdict::Statement(StatementFault::Other),
        // Cardinality, data exception, integrity constraint: what these classes say is said about values.
        _ if ["21", "22", "23"].iter().any(|class| state.starts_with(class)) => {
            Verdict::Statement(StatementFault::Other)
        }
        _ => Verdict::NotNow,
    }
}

/// By the result code, extended or not: <https://sqlite.org/rescode.html>. For a missing table SQLite has only words.
fn of_sqlite(code: Option<u32>, message: &str) -> Verdict {
    let Some(code) = code else {
        return Verdict::NotNow;
    };
    match (code & 0xff, code) {
        (5 | 6, _) => Verdict::Contention, // SQLITE_BUSY, SQLITE_LOCKED
        // SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE
        (_, 1555 | 2067) => Verdict::Statement(StatementFault::UniqueKey),
        (1, _) if message.starts_with("no such table") => {
            Verdict::Statement(StatementFault::MissingTable)
        }
        // SQLITE_ERROR, SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH, SQLITE_MISUSE, SQLITE_RANGE
        (1 | 18 | 19 | 20 | 21 | 25, _) => Verdict::Statement(StatementFault::Other),
        _ => Verdict::NotNow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_says_is_about_itself_unless_it_is_known_to_be_about_the_statement() {
        use StatementFault::{MissingTable, Other, UniqueKey};
        for (number, state, fault) in [
            (1062, "23000", UniqueKey),
            (1146, "42S02", MissingTable),
            (1406, "22001", Other), // ER_DATA_TOO_LONG
            (1264, "22003", Other), // ER_WARN_DATA_OUT_OF_RANGE
            (1048, "23000", Other), // ER_BAD_NULL_ERROR
            (1064, "42000", Other),
        ] {
            let verdict = Verdict::Statement(fault);
            assert_eq!(of_mysql(number, state), verdict, "{number}");
        }
        // Limits, access, read-only, full, shutdown, cluster, and numbers that nobody has given out.
        for (number, state) in [
            (1203, "42000"),
            (1226, "42000"),
            (1461, "42000"),
            (1044, "42000"),
            (1142, "42000"),
            (1045, "28000"),
            (1040, "08004"),
            (1053, "08S01"),
            (1047, "08S01"),
            (1290, "HY000"),
            (1792, "25006"),
            (1114, "HY000"),
            (60_000, "XX000"),
            (0, ""),
        ] {
            assert_eq!(of_mysql(number, state), Verdict::NotNow, "{number}");
        }
        for (code, verdict) in [
            (2067, Verdict::Statement(UniqueKey)),
            (275, Verdict::Statement(Other)), // SQLITE_CONSTRAINT_CHECK
            (5, Verdict::Contention),
            (517, Verdict::Contention), // SQLITE_BUSY_SNAPSHOT
            (8, Verdict::NotNow),       // SQLITE_READONLY
            (13, Verdict::NotNow),      // SQLITE_FULL
            (14, Verdict::NotNow),      // SQLITE_CANTOPEN
            (11, Verdict::NotNow), // SQLITE_CORRUPT: a sick disk or a file being copied; nobody looked at a row
            (778, Verdict::NotNow), // SQLITE_IOERR_WRITE
            (250, Verdict::NotNow),
        ] {
            assert_eq!(of_sqlite(Some(code), ""), verdict, "{code}");
        }
        assert_eq!(of_sqlite(None, ""), Verdict::NotNow);
        let missing = of_sqlite(Some(1), "no such table: t");
        assert_eq!(missing, Verdict::Statement(MissingTable));
    }

    #[test]
    fn what_no_database_said_is_about_the_database() {
        let error = Error::from(sqlx::Error::PoolTimedOut);
        assert!(error.is_retryable() && matches!(error, Error::DatabaseUnavailable(_)));
        let error = Error::from(sqlx::Error::WorkerCrashed);
        assert!(matches!(error, Error::DatabaseUnavailable(_)));
    }
}
