//! The archive's tables on a shard: where archived messages are, which segments there are, who may run a job.
//!
//! Everything that the archive commits on a shard is a statement of this module, run inside the caller's transaction.
//! The index of archived runs is on the conversation's own shard, beside its hot rows, so that publishing a segment is
//! one transaction, a page needs no other database, and one dead shard concerns only its own conversations.
//!
//! | module | what it holds |
//! |---|---|
//! | `run` | the index: which messages are in which frame of which segment |
//! | `copies` | which of several copies of a message counts, and how the index is read for messages |
//! | `segment` | the registry of segments, and the numbers that they take |
//! | `lease`, `job` | the right to run a job, and the history of jobs |
//! | `erasure`, `hold` | deleted content on its way out, and legal holds |
//! | `survey` | looking over the whole index |
//! | `repair` | messages put right by what their archived copies say |
//! | `about` | what a segment says of its conversations |
//!
//! - INV-TIER: [`delete_run`] removes hot rows only at or below the rev they were archived with; a message that was
//!   changed since then stays hot.
//! - INV-COPY: of several copies the greatest rev counts ([`Copies`]); no clock and no job decides.
//! - INV-OBJECT: a segment is published only while its intent row says `writing` ([`publish`]), and an object is deleted
//!   only after that row has left every state in which it could be published or read ([`begin_deletion`]).
//! - A job holds the lease of its range. Every transaction of the job checks it ([`check_lease`]), so that a job whose
//!   process slept through its lease cannot commit.
//!
//! A crash leaves rows that say how far a job came; the next holder of the lease goes on from there.

/// The columns of a run after `conversation_id`, in the order that [`ArchivedRun::read`] reads them; the table is `r`.
macro_rules! run_columns {
    () => {
        "r.first_seq, r.last_seq, r.generation, r.first_rev, r.last_rev, r.last_at, r.segment, r.frame_offset, \
         r.frame_length, r.frame_digest"
    };
}
mod about;
mod copies;
mod erasure;
mod hold;
mod job;
mod lease;
mod repair;
mod run;
mod segment;
mod survey;

use std::fmt;

use crate::db::{Connection, Row, Value, values};
use crate::error::{Error, Result};
use crate::ids::{COUNTER_MAX, ConversationId, Rev, Seq};
use crate::map::Assignment;
use crate::message::{StoredMessage, message_columns};
use crate::model::Timestamp;
use crate::range::KeyRange;

pub use about::*;
pub use copies::*;
pub use erasure::*;
pub use hold::*;
pub use job::*;
pub use lease::*;
pub use repair::*;
pub use run::*;
pub use segment::*;
pub use survey::*;

/// A segment's name: 128 random bits, so that keys are unique and spread whatever makes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId([u8; 16]);

impl SegmentId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        #[cfg(feature = "steps")]
        if let Some(name) = crate::steps::name() {
            return Self(name);
        }
        Self(rand::random())
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From its text form, 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits =
            text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits
            .then(|| u128::from_str_radix(text, 16).ok())?
            .map(|bits| Self(bits.to_be_bytes()))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| Error::corrupt("a segment id does not have 16 bytes"))
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number that a segment takes when it is begun, and a new one when it is superseded: the archive's own clock on a shard.
/// It only grows, whatever the machines' clocks say. It keeps rows of different segments apart and tells what was
/// superseded before what; which copy of a message counts it does not tell ([`Copies`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after it.
    ///
    /// # Errors
    /// When there is none: a stored number is damaged.
    pub fn next(self) -> Result<Self> {
        let next = self.0.checked_add(1).filter(|next| *next <= COUNTER_MAX);
        next.map(Self)
            .ok_or_else(|| Error::corrupt("the number of a segment is the greatest there is"))
    }

    /// From its stored form.
    #[must_use]
    pub fn from_i64(stored: i64) -> Self {
        Self(stored.max(0).cast_unsigned())
    }

    /// As stored.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl From<Generation> for Value<'_> {
    fn from(generation: Generation) -> Self {
        generation.as_i64().into()
    }
}

/// A conversation that may have messages to archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The conversation.
    pub conversation: ConversationId,
    /// When its first hot message was sent.
    pub oldest_hot_at: Timestamp,
    /// Its rev; a row with a greater one was changed since and stays hot.
    pub rev: Rev,
}

/// By the index `conversations_oldest_hot`: with nothing to do it reads nothing, however many conversations there are.
const CANDIDATES: &str = "SELECT c.id, c.oldest_hot_at, c.rev FROM conversations c {by conversations_oldest_hot} \
     LEFT JOIN holds h ON h.conversation_id = c.id \
     WHERE c.oldest_hot_at >= ? AND c.oldest_hot_at < ? AND (c.oldest_hot_at > ? OR c.id > ?) \
     AND c.id >= ? AND (? = 1 OR c.id < ?) AND c.deleted_at IS NULL AND h.conversation_id IS NULL \
     ORDER BY c.oldest_hot_at, c.id LIMIT ?";
/// By the primary key.
const ROWS_AFTER: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages WHERE conversation_id = ? AND seq > ? ORDER BY seq LIMIT ?"
);
/// By the primary key; ends at the first row that has such a time.
const NEXT_SENT: &str = "SELECT created_at FROM messages WHERE conversation_id = ? AND seq > ? AND created_at <= ? \
     ORDER BY seq LIMIT 1";
/// By the index `conversations_oldest_hot`.
const DATE_HEADS: &str = "UPDATE conversations SET oldest_hot_at = CASE WHEN created_at < ? THEN created_at ELSE ? END \
     WHERE oldest_hot_at > ? AND id >= ? AND (? = 1 OR id < ?)";
/// By the primary key: only rows as they were archived.
const DELETE_RUN: &str =
    "DELETE FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? AND rev <= ?";
/// By the primary key.
const DELETED_ROWS: &str = "SELECT seq FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? AND rev > ? \
     AND deleted_at IS NOT NULL";
/// By the primary keys. The lock makes MySQL read what is there now: of the heads that this has to wait for, writers have
/// changed the rows since the statement began.
const SETTLE_HEADS: &str = "UPDATE conversations SET oldest_hot_at = (SELECT m.created_at FROM messages m \
     WHERE m.conversation_id = conversations.id ORDER BY m.seq LIMIT 1 {for_share}) WHERE id IN (";

/// Where the ids of a range's conversations begin, whether they go on to the last, and where they end otherwise.
fn bounds(range: KeyRange) -> ([u8; 8], i64, [u8; 8]) {
    let end = range.end.unwrap_or(u64::MAX).to_be_bytes();
    (
        range.start.to_be_bytes(),
        i64::from(range.end.is_none()),
        end,
    )
}

/// The next conversations of a range whose first hot message was sent before `cutoff`, the longest waiting first. Held
/// and deleted ones are passed over.
///
/// # Errors
/// When the database fails.
pub async fn candidates(
    connection: &mut Connection,
    assignment: &Assignment,
    cutoff: Timestamp,
    after: Option<&Candidate>,
    limit: usize,
) -> Result<Vec<Candidate>> {
    let (at, id): (i64, &[u8]) = after.map_or((i64::MIN, &[]), |last| {
        (last.oldest_hot_at.0, last.conversation.as_bytes())
    });
    let (start, endless, end) = bounds(assignment.range);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![at, cutoff.0, at, id, &start, endless, &end, limit];
    let rows = connection.fetch_all(CANDIDATES, &args).await?;
    let candidate = |row: &Row| {
        let mut columns = row.columns();
        Ok(Candidate {
            conversation: columns.conversation()?,
            oldest_hot_at: Timestamp(columns.int()?),
            rev: Rev::from_i64(columns.int()?),
        })
    };
    rows.iter().map(candidate).collect()
}

/// The next `limit` hot rows of a conversation after `after`.
///
/// # Errors
/// When the database fails.
pub async fn rows_after(
    connection: &mut Connection,
    conversation: ConversationId,
    after: Seq,
    limit: usize,
) -> Result<Vec<StoredMessage>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = connection
        .fetch_all(ROWS_AFTER, &values![&conversation, after, limit])
        .await?;
    rows.iter()
        .map(|row| StoredMessage::read(&mut row.columns()))
        .collect()
}

/// When the first hot message after `after` was sent whose time is not beyond `until`; none when there is no such message.
///
/// # Errors
/// When the database fails.
pub async fn next_sent(
    connection: &mut Connection,
    conversation: ConversationId,
    after: Seq,
    until: Timestamp,
) -> Result<Option<Timestamp>> {
    let args = values![&conversation, after, until.0];
    let row = connection.fetch_optional(NEXT_SENT, &args).await?;
    row.map(|row| row.int(0).map(Timestamp)).transpose()
}

/// In a job's transaction: conversations of a range whose first hot message claims to be from after `until`, the latest time that is
/// believed, are taken to have been written to since they were created. Otherwise no job would look at them before that time.
///
/// # Errors
/// When the database fails.
pub async fn date_heads(
    connection: &mut Connection,
    range: KeyRange,
    until: Timestamp,
) -> Result<()> {
    let (start, endless, end) = bounds(range);
    let args = values![until.0, until.0, until.0, &start, endless, &end];
    connection.execute(DATE_HEADS, &args).await?;
    Ok(())
}

/// In a job's transaction: deletes hot rows whose archived copy is published, from `first` to `last` as far as no rev is
/// beyond `last_rev`, and says how many. Rows that stay because they were deleted by their author meanwhile have
/// content in the archive now: they are put down for erasure.
///
/// # Errors
/// When the database fails.
pub async fn delete_run(
    connection: &mut Connection,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
    last_rev: Rev,
    now: Timestamp,
) -> Result<u64> {
    let deleted = connection
        .execute(DELETE_RUN, &values![&conversation, first, last, last_rev])
        .await?;
    if deleted < (last.0 + 1).saturating_sub(first.0) {
        request_erasures(connection, conversation, (first, last), last_rev, now).await?;
    }
    Ok(deleted)
}

/// In a job's transaction: puts hot rows from `first` to `last` down for erasure that were deleted after `rev`: those whose
/// archived copy may be one with their content.
///
/// # Errors
/// When the database fails.
pub async fn request_erasures(
    connection: &mut Connection,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
    rev: Rev,
    now: Timestamp,
) -> Result<()> {
    let deleted = connection
        .fetch_all(DELETED_ROWS, &values![&conversation, first, last, rev])
        .await?;
    for row in deleted {
        request_erasure(connection, conversation, Seq::from_i64(row.int(0)?), now).await?;
    }
    Ok(())
}

/// In a job's transaction: brings `oldest_hot_at` of conversations (no two alike) up to date after rows left.
///
/// # Errors
/// When the database fails.
pub async fn settle_heads(
    connection: &mut Connection,
    conversations: &[ConversationId],
) -> Result<()> {
    let mut args: Vec<Value<'_>> = conversations.iter().map(Value::from).collect();
    crate::db::pad(&mut args);
    let places = crate::db::placeholders(args.len());
    connection
        .execute(&format!("{SETTLE_HEADS}{places})"), &args)
        .await?;
    Ok(())
}

/// Part of one conversation's messages, weighed for a plan.
const COUNT: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(LENGTH(content)), 0) AS {signed}) FROM messages \
     WHERE conversation_id = ? AND created_at < ? AND rev <= ?";
/// The time by the database's clock.
const CLOCK: &str = "SELECT {now}";
/// What a database is busy with, and how much it was asked since it started; MySQL and MariaDB only.
const THREADS_RUNNING: &str = "SHOW GLOBAL STATUS LIKE 'Threads_running'";
const QUESTIONS: &str = "SHOW GLOBAL STATUS LIKE 'Questions'";

/// How many messages of a candidate are older than `cutoff`, and the bytes of their text.
///
/// # Errors
/// When the database fails.
pub async fn count_messages_and_bytes(
    connection: &mut Connection,
    candidate: &Candidate,
    cutoff: Timestamp,
) -> Result<(u64, u64)> {
    let args = values![&candidate.conversation, cutoff.0, candidate.rev];
    let Some(row) = connection.fetch_optional(COUNT, &args).await? else {
        return Ok((0, 0));
    };
    Ok((row.int(0)?.cast_unsigned(), row.int(1)?.cast_unsigned()))
}

/// The time by the database's clock.
///
/// # Errors
/// When the database fails.
pub async fn clock(connection: &mut Connection) -> Result<Timestamp> {
    let row = connection.fetch_optional(CLOCK, &[]).await?;
    let row = row.ok_or(Error::Unexpected("a clock without a row"))?;
    row.int(0).map(Timestamp)
}

/// How many statements the database runs just now; `None` where it does not say.
///
/// # Errors
/// When the database fails.
pub async fn threads_running(connection: &mut Connection) -> Result<Option<u64>> {
    status(connection, THREADS_RUNNING).await
}

/// How many statements the database's server has been sent, by whomever; `None` where it does not say.
///
/// # Errors
/// When the database fails.
pub async fn questions(connection: &mut Connection) -> Result<Option<u64>> {
    status(connection, QUESTIONS).await
}

async fn status(connection: &mut Connection, statement: &str) -> Result<Option<u64>> {
    if connection.dialect() == crate::db::Dialect::Sqlite {
        return Ok(None);
    }
    let row = connection.fetch_optional(statement, &[]).await?;
    Ok(row
        .map(|row| row.text(1))
        .transpose()?
        .and_then(|text| text.parse().ok()))
}
