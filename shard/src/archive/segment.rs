//! The registry of segments.

use serde::Serialize;

use super::{ArchivedRun, SegmentId, insert_runs};
use crate::db::{Connection, Row, values};
use crate::error::{Error, Result};
use crate::ids::ConversationId;
use crate::model::Timestamp;

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentState {
    /// It is being written, or the job that wrote it died: there may be an object, which nothing names.
    Writing,
    /// The index names it; hot rows with the same messages may still be there.
    Published,
    /// The index names it, and the hot rows are gone.
    Settled,
    /// The index named it; what counted of it is in another segment now.
    Superseded,
    /// Nothing names it, and its object is being deleted.
    Deleting,
}

impl SegmentState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Writing,
        Self::Published,
        Self::Settled,
        Self::Superseded,
        Self::Deleting,
    ];

    /// As stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Published => "published",
            Self::Settled => "settled",
            Self::Superseded => "superseded",
            Self::Deleting => "deleting",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|state| state.name() == text);
        found.ok_or_else(|| Error::Corrupt(format!("unknown state {text} of a segment")))
    }
}

/// A segment as registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Its name.
    pub id: SegmentId,
    /// Of the lease under which it was written.
    pub generation: u64,
    /// What became of it.
    pub state: SegmentState,
    /// Its size; 0 until it is published.
    pub bytes: u64,
    /// How many messages it was written with.
    pub messages: u64,
    /// When its intent was put down.
    pub created_at: Timestamp,
    /// When it came into its state.
    pub changed_at: Timestamp,
}

macro_rules! segment_columns {
    () => {
        "id, generation, state, bytes, messages, created_at, changed_at"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO archive_segments (",
    segment_columns!(),
    ") VALUES (?, ?, ?, ?, ?, ?, ?) {on_duplicate id} generation = archive_segments.generation"
);
/// By the index `archive_segments_state`.
const IN_STATE: &str = concat!(
    "SELECT ",
    segment_columns!(),
    " FROM archive_segments {by archive_segments_state} WHERE state = ? AND changed_at <= ? ORDER BY changed_at, id LIMIT ?"
);
const ONE: &str = concat!(
    "SELECT ",
    segment_columns!(),
    " FROM archive_segments WHERE id = ?"
);
/// By the primary key.
const AFTER: &str = concat!(
    "SELECT ",
    segment_columns!(),
    " FROM archive_segments WHERE id > ? ORDER BY id LIMIT ?"
);
const PUBLISH: &str = "UPDATE archive_segments SET state = ?, bytes = ?, messages = ?, changed_at = ? WHERE id = ? AND state = ?";
const CHANGE: &str =
    "UPDATE archive_segments SET state = ?, changed_at = ? WHERE id = ? AND state = ?";
const FORGET: &str = "DELETE FROM archive_segments WHERE id = ? AND state = ?";
/// By the index `archive_runs_segment`.
const NAMED: &str = "SELECT generation FROM archive_runs WHERE segment = ? LIMIT 1";

impl SegmentRecord {
    fn from_row(row: &Row) -> Result<Self> {
        let count = |column: usize| Ok::<_, Error>(row.int(column)?.cast_unsigned());
        Ok(Self {
            id: SegmentId::from_bytes(&row.bytes(0)?)?,
            generation: count(1)?,
            state: SegmentState::parse(&row.text(2)?)?,
            bytes: count(3)?,
            messages: count(4)?,
            created_at: Timestamp(row.int(5)?),
            changed_at: Timestamp(row.int(6)?),
        })
    }
}

/// In a write transaction: registers a segment. A job does so before it uploads anything (`writing`), a rebuild when it
/// has found one. One that is registered stays as it is.
///
/// # Errors
/// When the database fails.
pub async fn register_segment(connection: &mut Connection, record: &SegmentRecord) -> Result<()> {
    let args = values![
        record.id.as_bytes(),
        record.generation.cast_signed(),
        record.state.name(),
        record.bytes.cast_signed(),
        record.messages.cast_signed(),
        record.created_at.0,
        record.changed_at.0,
    ];
    connection.execute(INSERT, &args).await.map(drop)
}

/// In a job's transaction: makes a segment that was uploaded and read back part of the archive (INV-TIER).
///
/// # Errors
/// [`Error::Conflict`] when it was given up meanwhile.
pub async fn publish(
    connection: &mut Connection,
    id: SegmentId,
    (bytes, messages): (u64, u64),
    runs: &[(ConversationId, ArchivedRun)],
    now: Timestamp,
) -> Result<()> {
    let args = values![
        SegmentState::Published.name(),
        bytes.cast_signed(),
        messages.cast_signed(),
        now.0,
        id.as_bytes(),
        SegmentState::Writing.name(),
    ];
    if connection.execute(PUBLISH, &args).await? != 1 {
        return Err(Error::Conflict(
            "the segment was given up while it was being written",
        ));
    }
    insert_runs(connection, runs).await
}

/// In a write transaction: moves a segment from one state to the next; `false` when it is not in that state.
///
/// # Errors
/// When the database fails.
pub async fn change_segment(
    connection: &mut Connection,
    id: SegmentId,
    (from, to): (SegmentState, SegmentState),
    now: Timestamp,
) -> Result<bool> {
    let args = values![to.name(), now.0, id.as_bytes(), from.name()];
    Ok(connection.execute(CHANGE, &args).await? == 1)
}

/// In a write transaction: marks a segment for deletion if nothing on this shard names it; from then on it cannot be
/// published any more (INV-OBJECT).
///
/// # Errors
/// When the database fails.
pub async fn begin_deletion(
    connection: &mut Connection,
    record: &SegmentRecord,
    now: Timestamp,
) -> Result<bool> {
    if is_named(connection, record.id).await? {
        return Ok(false);
    }
    if record.state == SegmentState::Deleting {
        return Ok(true);
    }
    let step = (record.state, SegmentState::Deleting);
    change_segment(connection, record.id, step, now).await
}

/// Whether a row of the index names the segment.
///
/// # Errors
/// When the database fails.
pub async fn is_named(connection: &mut Connection, id: SegmentId) -> Result<bool> {
    Ok(connection
        .fetch_optional(NAMED, &values![id.as_bytes()])
        .await?
        .is_some())
}

/// In a write transaction: forgets a segment whose object is deleted.
///
/// # Errors
/// When the database fails.
pub async fn forget_segment(connection: &mut Connection, id: SegmentId) -> Result<()> {
    let args = values![id.as_bytes(), SegmentState::Deleting.name()];
    connection.execute(FORGET, &args).await.map(drop)
}

/// The first `limit` segments that came into `state` at `until` or before, the oldest first.
///
/// # Errors
/// When the database fails.
pub async fn segments_in(
    connection: &mut Connection,
    state: SegmentState,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<SegmentRecord>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = connection
        .fetch_all(IN_STATE, &values![state.name(), until.0, limit])
        .await?;
    rows.iter().map(SegmentRecord::from_row).collect()
}

/// A segment, if it is registered.
///
/// # Errors
/// When the database fails.
pub async fn segment(connection: &mut Connection, id: SegmentId) -> Result<Option<SegmentRecord>> {
    let row = connection
        .fetch_optional(ONE, &values![id.as_bytes()])
        .await?;
    row.as_ref().map(SegmentRecord::from_row).transpose()
}

/// The next `limit` segments after `after`, by id.
///
/// # Errors
/// When the database fails.
pub async fn segments_after(
    connection: &mut Connection,
    after: Option<SegmentId>,
    limit: usize,
) -> Result<Vec<SegmentRecord>> {
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = connection.fetch_all(AFTER, &values![after, limit]).await?;
    rows.iter().map(SegmentRecord::from_row).collect()
}
