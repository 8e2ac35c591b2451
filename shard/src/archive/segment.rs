//! The registry of segments, and their numbers.
//!
//! A number is taken in the transaction that begins a segment, and again in the one that supersedes it: one more than the
//! greatest that the shard has given out. Leases take theirs from beyond it too, so that it does not go back when the
//! segment with the greatest number is forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::{
    ArchivedRun, Generation, Lease, SegmentId, all_runs_of_segment, insert_runs, reopen_erasures,
    request_erasures, runs_in_the_way, unname_runs,
};
use crate::clock;
use crate::db::{Connection, Row, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq};
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
        found.ok_or_else(|| Error::corrupt(format_args!("unknown state {text} of a segment")))
    }
}

/// A segment as registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Its name.
    pub id: SegmentId,
    /// Its number.
    pub generation: Generation,
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
    ") VALUES (?, ?, ?, ?, ?, ?, ?) {on_duplicate id} generation = {greatest}(archive_segments.generation, {new generation})"
);
const SUPERSEDE: &str = concat!(
    "INSERT INTO archive_segments (",
    segment_columns!(),
    ") VALUES (?, ?, ?, ?, ?, ?, ?) {on_duplicate id} generation = {new generation}, state = {new state}, \
     changed_at = {new changed_at}"
);
/// By the index `archive_segments_generation`.
const NEWEST_GENERATION: &str =
    "SELECT MAX(generation) FROM archive_segments {by archive_segments_generation}";
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
/// By the index `archive_segments_state`.
const BELIEVE: &str =
    "UPDATE archive_segments SET changed_at = {now} WHERE state = ? AND changed_at > {now} + ?";
const FORGET: &str = "DELETE FROM archive_segments WHERE id = ? AND state = ?";
const FORGET_SETTLED: &str = "DELETE FROM archive_segments WHERE id = ? AND state IN (?, ?)";
/// By the primary key, and for each row by the index `archive_runs_segment`.
const UNNAMED: &str = "SELECT s.id FROM archive_segments s WHERE s.id > ? AND s.id <= ? AND s.state IN (?, ?) AND NOT EXISTS \
     (SELECT r.last_seq FROM archive_runs r {by archive_runs_segment} WHERE r.segment = s.id) ORDER BY s.id";
/// By the index `archive_runs_segment`.
const NAMED: &str = "SELECT last_seq FROM archive_runs WHERE segment = ? LIMIT 1";

impl SegmentRecord {
    fn from_row(row: &Row) -> Result<Self> {
        let mut columns = row.columns();
        Ok(Self {
            id: SegmentId::from_bytes(&columns.bytes()?)?,
            generation: Generation::from_i64(columns.int()?),
            state: SegmentState::parse(&columns.text()?)?,
            bytes: columns.unsigned()?,
            messages: columns.unsigned()?,
            created_at: Timestamp(columns.int()?),
            changed_at: Timestamp(columns.int()?),
        })
    }
}

/// The greatest number that a segment of the shard has.
///
/// # Errors
/// When the database fails.
pub async fn newest_generation(connection: &mut Connection) -> Result<Generation> {
    let row = connection.fetch_optional(NEWEST_GENERATION, &[]).await?;
    let stored = row.map(|row| row.opt_int(0)).transpose()?.flatten();
    Ok(stored.map(Generation::from_i64).unwrap_or_default())
}

/// In a job's transaction: puts down that a segment is about to be written, before anything is uploaded, and gives its
/// number.
///
/// # Errors
/// When the database fails.
pub async fn begin_segment(
    connection: &mut Connection,
    lease: &Lease,
    id: SegmentId,
    now: Timestamp,
) -> Result<Generation> {
    let newest = newest_generation(connection).await?;
    let record = SegmentRecord {
        id,
        generation: newest.max(Generation(lease.generation)).next()?,
        state: SegmentState::Writing,
        bytes: 0,
        messages: 0,
        created_at: now,
        changed_at: now,
    };
    register_segment(connection, &record).await?;
    Ok(record.generation)
}

/// In a write transaction: registers a segment that was found. One that is registered keeps its state, and the greater
/// number.
///
/// # Errors
/// When the database fails.
pub async fn register_segment(connection: &mut Connection, record: &SegmentRecord) -> Result<()> {
    write(connection, INSERT, record).await
}

async fn write(connection: &mut Connection, statement: &str, record: &SegmentRecord) -> Result<()> {
    let args = values![
        record.id.as_bytes(),
        record.generation,
        record.state.name(),
        record.bytes.cast_signed(),
        record.messages.cast_signed(),
        record.created_at.0,
        record.changed_at.0,
    ];
    connection.execute(statement, &args).await.map(drop)
}

/// In a job's transaction: a segment is no part of the archive any more, since what counted of it is named elsewhere. It
/// takes the next number, by which receipts of erasures know whether it was there when content was unnamed (INV-ERASE).
///
/// # Errors
/// When the database fails.
pub async fn supersede(connection: &mut Connection, id: SegmentId, now: Timestamp) -> Result<()> {
    let record = SegmentRecord {
        id,
        generation: newest_generation(connection).await?.next()?,
        state: SegmentState::Superseded,
        bytes: 0,
        messages: 0,
        created_at: now,
        changed_at: now,
    };
    write(connection, SUPERSEDE, &record).await
}

/// In a job's transaction: makes the index say of a segment that was found what the segment itself says: `runs` are all
/// that it has on this shard. Rows that are right stay, also under another number; what was dropped stays dropped.
/// Gives how many rows it put in.
///
/// # Errors
/// When the database fails.
pub async fn enter_segment(
    connection: &mut Connection,
    record: &SegmentRecord,
    runs: &[(ConversationId, ArchivedRun)],
) -> Result<u64> {
    let known = segment(connection, record.id).await?;
    let mut generation = known.map_or(record.generation, |known| known.generation);
    let right: HashMap<RunKey, &ArchivedRun> = runs.iter().map(|it| (key(it), &it.1)).collect();
    let ours: HashSet<ConversationId> = runs.iter().map(|(id, _)| *id).collect();
    let (mut there, mut wrong) = (HashSet::new(), Vec::new());
    for row in all_runs_of_segment(connection, record.id).await? {
        let same = |right: &&ArchivedRun| is_same(right, &row.1);
        if right.get(&key(&row)).copied().is_some_and(|run| same(&run)) {
            there.insert(key(&row));
        } else if ours.contains(&row.0) {
            wrong.push(row);
        }
    }
    unname_runs(connection, &wrong).await?;
    let numbered = |generation| {
        let missing = runs.iter().filter(|run| !there.contains(&key(run)));
        let numbered = missing.map(|(id, run)| (*id, ArchivedRun { generation, ..*run }));
        numbered.collect::<Vec<_>>()
    };
    let in_the_way = runs_in_the_way(connection, &numbered(generation)).await?;
    if !in_the_way.is_empty() {
        generation = newest_generation(connection)
            .await?
            .max(generation)
            .next()?;
    }
    let dropped = in_the_way.iter().filter(|row| row.1.segment.is_none());
    let dropped: HashSet<RunKey> = dropped.map(key).collect();
    let mut missing = numbered(generation);
    missing.retain(|run| !dropped.contains(&key(run)));
    insert_runs(connection, &missing).await?;
    let mut entered: BTreeMap<ConversationId, (Seq, Seq)> = BTreeMap::new();
    for (id, run) in &missing {
        let range = entered.entry(*id).or_insert((run.first_seq, run.last_seq));
        *range = (range.0.min(run.first_seq), range.1.max(run.last_seq));
    }
    for (id, range) in entered {
        reopen_erasures(connection, id, range).await?;
        request_erasures(connection, id, range, Rev(0), record.changed_at).await?;
    }
    register_segment(
        connection,
        &SegmentRecord {
            generation,
            ..*record
        },
    )
    .await?;
    Ok(missing.len() as u64)
}

/// Which messages a run has.
type RunKey = (ConversationId, Seq, Seq);

fn key((id, run): &(ConversationId, ArchivedRun)) -> RunKey {
    (*id, run.first_seq, run.last_seq)
}

/// Whether two rows of a segment say the same, whatever number they were entered under.
fn is_same(one: &ArchivedRun, other: &ArchivedRun) -> bool {
    let generation = other.generation;
    ArchivedRun { generation, ..*one } == *other
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

/// In a write transaction: segments that came into their state at a time which is still to come, by a clock that was wrong,
/// came into it now. Their grace periods would not end before.
///
/// # Errors
/// When the database fails.
pub async fn believe_no_future(connection: &mut Connection) -> Result<()> {
    for state in SegmentState::ALL {
        let args = values![state.name(), clock::tolerance_millis()];
        connection.execute(BELIEVE, &args).await?;
    }
    Ok(())
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

/// The segments after `after`, up to `last`, that are registered as parts of the archive and that no row of the index names.
///
/// # Errors
/// When the database fails.
pub async fn unnamed(
    connection: &mut Connection,
    after: Option<SegmentId>,
    last: SegmentId,
) -> Result<Vec<SegmentId>> {
    let (published, settled) = (SegmentState::Published, SegmentState::Settled);
    let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
    let args = values![
        after.as_slice(),
        last.as_bytes(),
        published.name(),
        settled.name()
    ];
    let rows = connection.fetch_all(UNNAMED, &args).await?;
    rows.iter()
        .map(|row| SegmentId::from_bytes(&row.bytes(0)?))
        .collect()
}

/// In a write transaction: forgets a segment whose object is deleted.
///
/// # Errors
/// When the database fails.
pub async fn forget_segment(connection: &mut Connection, id: SegmentId) -> Result<()> {
    let args = values![id.as_bytes(), SegmentState::Deleting.name()];
    connection.execute(FORGET, &args).await.map(drop)
}

/// In a write transaction: forgets a segment that the shard does not name any more because its conversations moved away. One that
/// is to be collected stays.
///
/// # Errors
/// When the database fails.
pub(crate) async fn forget_settled(connection: &mut Connection, id: SegmentId) -> Result<()> {
    let (published, settled) = (SegmentState::Published, SegmentState::Settled);
    let args = values![id.as_bytes(), published.name(), settled.name()];
    connection.execute(FORGET_SETTLED, &args).await.map(drop)
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
