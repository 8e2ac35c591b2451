//! The index: where consecutive messages of a conversation are archived, in which frame of which segment.
//!
//! A row is inserted once and never merged with one that names another segment. Reading messages by it goes through
//! [`super::Copies`], which knows that there may be several copies of one.

use super::{Generation, SegmentId};
use crate::db::{Columns, Connection, Value, in_rows, padded, rows_of, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq};
use crate::model::Timestamp;
use crate::owned::OwnedReader;

/// Most messages of a run: what bounds a look-up in the index to the few rows that can matter.
pub const RUN_MAX: u64 = 4096;

/// How many columns `run_columns` names.
const RUN_COLUMN_COUNT: usize = 10;

/// Most runs that a segment's publication or a look-up handles in one statement.
const STATEMENT_ROWS: usize = 256;

/// Where consecutive messages of a conversation are archived: a row of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchivedRun {
    /// The first message.
    pub first_seq: Seq,
    /// The last one; at most [`RUN_MAX`] in all.
    pub last_seq: Seq,
    /// The segment's number, which keeps its rows apart from those of other segments.
    pub generation: Generation,
    /// The smallest rev among the messages; 0 when it is not known, in rows from before it was kept.
    pub first_rev: Rev,
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
    pub(super) fn read(columns: &mut Columns<'_>) -> Result<Self> {
        Ok(Self {
            first_seq: Seq::from_i64(columns.int()?),
            last_seq: Seq::from_i64(columns.int()?),
            generation: Generation::from_i64(columns.int()?),
            first_rev: columns.opt_int()?.map(Rev::from_i64).unwrap_or_default(),
            last_rev: Rev::from_i64(columns.int()?),
            last_at: Timestamp(columns.int()?),
            segment: columns
                .opt_bytes()?
                .map(|bytes| SegmentId::from_bytes(&bytes))
                .transpose()?,
            offset: columns.unsigned()?,
            length: u32::try_from(columns.unsigned()?)
                .map_err(|_| Error::corrupt("a frame's length"))?,
            digest: columns.unsigned()?,
        })
    }

    fn values(&self) -> [Value<'_>; RUN_COLUMN_COUNT] {
        values![
            self.first_seq,
            self.last_seq,
            self.generation,
            (self.first_rev > Rev(0)).then_some(self.first_rev),
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

const INSERT_RUNS: &str = "INSERT INTO archive_runs (conversation_id, first_seq, last_seq, generation, first_rev, last_rev, last_at, \
     segment, frame_offset, frame_length, frame_digest) VALUES ";
/// By the index `archive_runs_segment`.
const RUNS_OF_SEGMENT: &str = concat!(
    "SELECT r.conversation_id, ",
    run_columns!(),
    " FROM archive_runs r {by archive_runs_segment} WHERE r.segment = ? AND r.conversation_id >= ? \
     AND (r.conversation_id > ? OR r.last_seq > ?) ORDER BY r.conversation_id, r.last_seq LIMIT ?"
);
/// By the primary key.
const RUNS_OF_CONVERSATION: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM archive_runs r WHERE r.conversation_id = ? AND (r.last_seq > ? OR (r.last_seq = ? AND r.generation > ?)) \
     ORDER BY r.last_seq, r.generation LIMIT ?"
);
/// By the primary key, backwards: no run is longer than [`RUN_MAX`].
const RUNS_BEFORE: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM archive_runs r {by PRIMARY} WHERE r.conversation_id = ? AND r.last_seq < ? AND r.first_seq <= ? \
     ORDER BY r.last_seq DESC, r.generation DESC LIMIT ?"
);
/// By the primary key.
const TAKEN: &str = concat!(
    "SELECT r.conversation_id, ",
    run_columns!(),
    " FROM archive_runs r {by PRIMARY} WHERE "
);
/// By the primary key.
const UNNAME_RUN: &str =
    "DELETE FROM archive_runs WHERE conversation_id = ? AND last_seq = ? AND generation = ?";
/// By the primary key.
const DROP_RUN: &str = "UPDATE archive_runs SET segment = NULL WHERE conversation_id = ? AND last_seq = ? AND generation = ?";

/// In a write transaction: adds rows to the index.
///
/// # Errors
/// When one of their primary keys is taken (a unique violation), or the database fails.
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
            .execute(&format!("{INSERT_RUNS}{rows}"), &args)
            .await?;
    }
    Ok(())
}

/// The rows whose primary keys some of `runs` would take.
///
/// # Errors
/// When the database fails.
pub async fn runs_in_the_way(
    connection: &mut Connection,
    runs: &[(ConversationId, ArchivedRun)],
) -> Result<Vec<(ConversationId, ArchivedRun)>> {
    let mut found = Vec::new();
    for chunk in runs.chunks(STATEMENT_ROWS) {
        let args: Vec<Value<'_>> = padded(chunk)
            .flat_map(|(conversation, run)| values![conversation, run.last_seq, run.generation])
            .collect();
        let columns = ["r.conversation_id", "r.last_seq", "r.generation"];
        let condition = in_rows(columns, args.len() / columns.len());
        let rows = connection
            .fetch_all(&format!("{TAKEN}{condition}"), &args)
            .await?;
        for row in rows {
            let mut columns = row.columns();
            found.push((columns.conversation()?, ArchivedRun::read(&mut columns)?));
        }
    }
    Ok(found)
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
        .map(|row| {
            let mut columns = row.columns();
            Ok((columns.conversation()?, ArchivedRun::read(&mut columns)?))
        })
        .collect()
}

/// All runs that name a segment.
///
/// # Errors
/// When the database fails.
pub async fn all_runs_of_segment(
    connection: &mut Connection,
    segment: SegmentId,
) -> Result<Vec<(ConversationId, ArchivedRun)>> {
    let mut runs: Vec<(ConversationId, ArchivedRun)> = Vec::new();
    loop {
        let after = runs.last().map(|(id, run)| (*id, run.last_seq));
        let page = runs_of_segment(connection, segment, after, STATEMENT_ROWS).await?;
        if page.is_empty() {
            return Ok(runs);
        }
        runs.extend(page);
    }
}

/// The next `limit` runs of a conversation after the one given, by their last seq and generation.
///
/// # Errors
/// When the database fails.
pub async fn runs_of_conversation(
    connection: &mut Connection,
    conversation: ConversationId,
    after: Option<&ArchivedRun>,
    limit: usize,
) -> Result<Vec<ArchivedRun>> {
    let (seq, generation) = after.map_or((Seq(0), Generation(0)), |run| {
        (run.last_seq, run.generation)
    });
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![&conversation, seq, seq, generation, limit];
    let rows = connection.fetch_all(RUNS_OF_CONVERSATION, &args).await?;
    rows.iter()
        .map(|row| ArchivedRun::read(&mut row.columns()))
        .collect()
}

/// The last `limit` runs of a conversation that have messages up to `last`, those that end last first.
///
/// # Errors
/// When the database fails.
pub async fn latest_runs(
    rows: &mut OwnedReader<'_>,
    conversation: ConversationId,
    last: Seq,
    limit: usize,
) -> Result<Vec<ArchivedRun>> {
    let end = Seq(last.0.saturating_add(RUN_MAX).min(i64::MAX.cast_unsigned()));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![&conversation, end, last, limit];
    let rows = rows.fetch_all(RUNS_BEFORE, &args).await?;
    rows.iter()
        .map(|row| ArchivedRun::read(&mut row.columns()))
        .collect()
}

/// In a write transaction: removes rows of the index.
///
/// # Errors
/// When the database fails.
pub async fn unname_runs(
    connection: &mut Connection,
    runs: &[(ConversationId, ArchivedRun)],
) -> Result<()> {
    for (conversation, run) in runs {
        let args = values![conversation, run.last_seq, run.generation];
        connection.execute(UNNAME_RUN, &args).await?;
    }
    Ok(())
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
        unname_runs(connection, &runs).await?;
    }
}

/// In a job's transaction: drops a run for good; its messages are not shown any more.
///
/// # Errors
/// When the database fails.
pub async fn drop_run(
    connection: &mut Connection,
    conversation: ConversationId,
    run: &ArchivedRun,
) -> Result<()> {
    let args = values![&conversation, run.last_seq, run.generation];
    connection.execute(DROP_RUN, &args).await.map(drop)
}

/// By the index `archive_runs_segment`.
const LAST_DROPPED: &str = "SELECT MAX(last_seq) FROM archive_runs {by archive_runs_segment} \
     WHERE segment IS NULL AND conversation_id = ?";

/// The last message of a conversation that was dropped when its retention ended; 0 when none was.
///
/// # Errors
/// When the database fails.
pub async fn last_dropped(rows: &mut OwnedReader<'_>, id: ConversationId) -> Result<Seq> {
    let row = rows.fetch_optional(LAST_DROPPED, &values![&id]).await?;
    let last = row.map_or(Ok(None), |row| row.opt_int(0))?;
    Ok(last.map_or(Seq(0), Seq::from_i64))
}
