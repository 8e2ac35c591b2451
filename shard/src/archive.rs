//! The archive's tables on a shard: where archived messages are, which segments there are, who may run a job.
//!
//! Everything that the archive commits on a shard is a statement of this module, run inside the caller's transaction.
//! The index of archived runs is on the conversation's own shard, beside its hot rows, so that publishing a segment is
//! one transaction, a page needs no other database, and one dead shard concerns only its own conversations.
//!
//! - INV-TIER: [`delete_run`] removes hot rows only at or below the rev they were archived with; a message that was
//!   changed since then stays hot.
//! - INV-OBJECT: a segment is published only while its intent row says `writing` ([`publish`]), and an object is deleted
//!   only after that row has left every state in which it could be published or read ([`begin_deletion`]).
//! - A job holds the lease of its range. Every transaction of the job checks it ([`check_lease`]), so that a job whose
//!   process slept through its lease cannot commit.
//!
//! A crash leaves rows that say how far a job came; the next holder of the lease goes on from there.

/// The columns of a run after `conversation_id`, in the order that [`ArchivedRun::from_row`] reads them.
macro_rules! run_columns {
    () => {
        "first_seq, last_seq, generation, last_rev, last_at, segment, frame_offset, frame_length, frame_digest"
    };
}
mod about;
mod erasure;
mod hold;
mod job;
mod lease;
mod segment;
mod survey;

use std::fmt;

use crate::db::{Connection, Row, Value, rows_of, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq};
use crate::map::Assignment;
use crate::message::{StoredMessage, message_columns};
use crate::model::Timestamp;

pub use about::*;
pub use erasure::*;
pub use hold::*;
pub use job::*;
pub use lease::*;
pub use segment::*;
pub use survey::*;

/// Most messages of a run: what bounds a look-up in the index to the few rows that can matter.
pub const RUN_MAX: u64 = 4096;

/// How many columns `run_columns` names.
const RUN_COLUMN_COUNT: usize = 9;

/// Most runs that a segment's publication or a look-up handles in one statement.
const STATEMENT_ROWS: usize = 256;

/// A segment's name: 128 random bits, so that keys are unique and spread whatever makes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId([u8; 16]);

impl SegmentId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
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

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| Error::Corrupt("a segment id does not have 16 bytes".into()))
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

/// Where consecutive messages of a conversation are archived: a row of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchivedRun {
    /// The first message.
    pub first_seq: Seq,
    /// The last one; at most [`RUN_MAX`] in all.
    pub last_seq: Seq,
    /// Of two copies of a message the one of the greater generation counts.
    pub generation: u64,
    /// The greatest rev among the messages.
    pub last_rev: Rev,
    /// When the latest of them was sent.
    pub last_at: Timestamp,
    /// The segment; `None` for messages that were dropped when their retention ended.
    pub segment: Option<SegmentId>,
    /// Bytes of the segment before the frame.
    pub offset: u64,
    /// The frame's compressed bytes.
    pub length: u32,
    /// XXH3-64 of these bytes.
    pub digest: u64,
}

impl ArchivedRun {
    fn from_row(row: &Row, first: usize) -> Result<Self> {
        let count = |column: usize| Ok::<_, Error>(row.int(first + column)?.cast_unsigned());
        Ok(Self {
            first_seq: Seq::from_i64(row.int(first)?),
            last_seq: Seq::from_i64(row.int(first + 1)?),
            generation: count(2)?,
            last_rev: Rev::from_i64(row.int(first + 3)?),
            last_at: Timestamp(row.int(first + 4)?),
            segment: row
                .opt_bytes(first + 5)?
                .map(|bytes| SegmentId::from_bytes(&bytes))
                .transpose()?,
            offset: count(6)?,
            length: u32::try_from(count(7)?)
                .map_err(|_| Error::Corrupt("a frame's length".into()))?,
            digest: count(8)?,
        })
    }

    fn values(&self) -> [Value<'_>; RUN_COLUMN_COUNT] {
        values![
            self.first_seq,
            self.last_seq,
            self.generation.cast_signed(),
            self.last_rev,
            self.last_at.0,
            self.segment.as_ref().map(SegmentId::as_bytes),
            self.offset.cast_signed(),
            i64::from(self.length),
            self.digest.cast_signed(),
        ]
    }

    /// Whether `seq` is in it.
    #[must_use]
    pub fn holds(&self, seq: Seq) -> bool {
        (self.first_seq..=self.last_seq).contains(&seq)
    }

    /// How many messages it has.
    #[must_use]
    pub fn messages(&self) -> u64 {
        (self.last_seq.0 + 1).saturating_sub(self.first_seq.0)
    }
}

/// By the primary key: no run is longer than [`RUN_MAX`], so the rows that can overlap the stretch end within it or
/// soon after it.
const LOCATE: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM archive_runs WHERE conversation_id = ? AND last_seq >= ? AND last_seq < ? AND first_seq <= ? ORDER BY generation"
);
/// By the index `archive_runs_rev`.
const CHANGED_RUNS: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM archive_runs WHERE conversation_id = ? AND last_rev > ? ORDER BY last_rev LIMIT ?"
);
const INSERT_RUNS: &str = concat!(
    "INSERT INTO archive_runs (conversation_id, ",
    run_columns!(),
    ") VALUES "
);
const KEEP_RUNS: &str =
    " {on_duplicate conversation_id, last_seq, generation} first_seq = {new first_seq}";
/// By the index `archive_runs_segment`.
const RUNS_OF_SEGMENT: &str = concat!(
    "SELECT conversation_id, ",
    run_columns!(),
    " FROM archive_runs {by archive_runs_segment} WHERE segment = ? AND conversation_id >= ? \
     AND (conversation_id > ? OR last_seq > ?) ORDER BY conversation_id, last_seq LIMIT ?"
);
/// By the primary key.
const UNNAME_RUN: &str =
    "DELETE FROM archive_runs WHERE conversation_id = ? AND last_seq = ? AND generation = ?";

/// The runs that hold any of the messages from `first` to `last`, the greatest generation last.
///
/// # Errors
/// When the database fails.
pub async fn locate(
    connection: &mut Connection,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
) -> Result<Vec<ArchivedRun>> {
    let end = Seq(last.0.saturating_add(RUN_MAX).min(i64::MAX.cast_unsigned()));
    let rows = connection
        .fetch_all(LOCATE, &values![&conversation, first, end, last])
        .await?;
    rows.iter()
        .map(|row| ArchivedRun::from_row(row, 0))
        .collect()
}

/// At most `limit` runs with a message that was changed after `rev`.
///
/// # Errors
/// When the database fails.
pub async fn changed_runs(
    connection: &mut Connection,
    conversation: ConversationId,
    rev: Rev,
    limit: usize,
) -> Result<Vec<ArchivedRun>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = connection
        .fetch_all(CHANGED_RUNS, &values![&conversation, rev, limit])
        .await?;
    rows.iter()
        .map(|row| ArchivedRun::from_row(row, 0))
        .collect()
}

/// In a write transaction: adds rows to the index; those that are there already stay.
///
/// # Errors
/// When the database fails.
pub async fn insert_runs(
    connection: &mut Connection,
    runs: &[(ConversationId, ArchivedRun)],
) -> Result<()> {
    for chunk in runs.chunks(STATEMENT_ROWS) {
        let mut args: Vec<Value<'_>> = Vec::with_capacity(chunk.len() * (RUN_COLUMN_COUNT + 1));
        for (conversation, run) in chunk {
            args.push(conversation.into());
            args.extend(run.values());
        }
        let rows = rows_of(chunk.len(), RUN_COLUMN_COUNT + 1);
        connection
            .execute(&format!("{INSERT_RUNS}{rows}{KEEP_RUNS}"), &args)
            .await?;
    }
    Ok(())
}

/// The next `limit` runs that name a segment, after the one given, in order of conversation and seq.
///
/// # Errors
/// When the database fails.
pub async fn runs_of_segment(
    connection: &mut Connection,
    segment: SegmentId,
    after: Option<(ConversationId, Seq)>,
    limit: usize,
) -> Result<Vec<(ConversationId, ArchivedRun)>> {
    let (conversation, seq): (&[u8], Seq) =
        after.as_ref().map_or((&[], Seq(0)), |(conversation, seq)| {
            (conversation.as_bytes(), *seq)
        });
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![segment.as_bytes(), conversation, conversation, seq, limit];
    let rows = connection.fetch_all(RUNS_OF_SEGMENT, &args).await?;
    rows.iter()
        .map(|row| Ok((row.conversation(0)?, ArchivedRun::from_row(row, 1)?)))
        .collect()
}

/// In a write transaction: removes every row of the index that names a segment.
///
/// # Errors
/// When the database fails.
pub async fn unname_segment(connection: &mut Connection, segment: SegmentId) -> Result<()> {
    loop {
        let runs = runs_of_segment(connection, segment, None, STATEMENT_ROWS).await?;
        if runs.is_empty() {
            return Ok(());
        }
        for (conversation, run) in &runs {
            let args = values![conversation, run.last_seq, run.generation.cast_signed()];
            connection.execute(UNNAME_RUN, &args).await?;
        }
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
/// By the primary key: only rows as they were archived.
const DELETE_RUN: &str =
    "DELETE FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? AND rev <= ?";
const DELETED_ROWS: &str = "SELECT seq FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ? AND deleted_at IS NOT NULL";
const SETTLE_HEADS: &str = "UPDATE conversations SET oldest_hot_at = (SELECT m.created_at FROM messages m \
     WHERE m.conversation_id = conversations.id ORDER BY m.seq LIMIT 1) WHERE id IN (";

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
    let start = assignment.range.start.to_be_bytes();
    let end = assignment.range.end.unwrap_or(u64::MAX).to_be_bytes();
    let endless = i64::from(assignment.range.end.is_none());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![at, cutoff.0, at, id, &start, endless, &end, limit];
    let rows = connection.fetch_all(CANDIDATES, &args).await?;
    let candidate = |row: &Row| {
        Ok(Candidate {
            conversation: row.conversation(0)?,
            oldest_hot_at: Timestamp(row.int(1)?),
            rev: Rev::from_i64(row.int(2)?),
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
        .map(|row| StoredMessage::from_row(row, 0))
        .collect()
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
        let left = connection
            .fetch_all(DELETED_ROWS, &values![&conversation, first, last])
            .await?;
        for row in left {
            request_erasure(connection, conversation, Seq::from_i64(row.int(0)?), now).await?;
        }
    }
    Ok(deleted)
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
    crate::conversation::pad(&mut args);
    let places = crate::db::placeholders(args.len());
    connection
        .execute(&format!("{SETTLE_HEADS}{places})"), &args)
        .await?;
    Ok(())
}

/// Part of one conversation's messages, weighed for a plan.
const WEIGH: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(LENGTH(content)), 0) AS {signed}) FROM messages \
     WHERE conversation_id = ? AND created_at < ? AND rev <= ?";
/// What a database is busy with, and how much it was asked since it started; MySQL and MariaDB only.
const THREADS_RUNNING: &str = "SHOW GLOBAL STATUS LIKE 'Threads_running'";
const QUESTIONS: &str = "SHOW GLOBAL STATUS LIKE 'Questions'";

/// How many messages of a candidate are older than `cutoff`, and the bytes of their text.
///
/// # Errors
/// When the database fails.
pub async fn weigh(
    connection: &mut Connection,
    candidate: &Candidate,
    cutoff: Timestamp,
) -> Result<(u64, u64)> {
    let args = values![&candidate.conversation, cutoff.0, candidate.rev];
    let Some(row) = connection.fetch_optional(WEIGH, &args).await? else {
        return Ok((0, 0));
    };
    Ok((row.int(0)?.cast_unsigned(), row.int(1)?.cast_unsigned()))
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
