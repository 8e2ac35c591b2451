//! Fences: why a stale router cannot hurt (INV-OWNER).
//!
//! Every shard has a row for each key range it owns, with the range's epoch and state. A write transaction locks the rows
//! of its keys shared before anything else; a read looks at them without a lock. If the row is missing, has another
//! epoch, or its state does not allow it, the answer is [`Error::NotOwner`]: the caller's map is stale.
//!
//! Taking a range away is one `UPDATE` of its row. The exclusive lock waits for the writers in flight and stops new ones
//! exactly, without sleeping and without the routers' help.
//!
//! A cluster that takes writes on several servers does not see across them that a transaction read a fence. There the table
//! `writer` names the one server that may write the shard ([`crate::identity::writer`]), and on every other one a write
//! transaction finds no fence. It is read by the statement that reads the fence, and stays locked with it.
//!
//! This module is the rule, once in Rust ([`Fence::is_of`], [`FenceState`]) and once in SQL ([`STATE_OF_FENCE`]), for
//! statements that read rows together with their fence. Nobody asks it by hand: [`crate::owned`] makes the readers and
//! transactions through which rows are reached, and makes them of what this module answers.

use crate::db::{Columns, Connection, Row, Value, placeholders, rows_of, values};
use crate::error::{Error, Result};
use crate::ids::{Epoch, ShardName, UserKey};
use crate::map::{Assignment, ShardMap};
use crate::range::KeyRange;

/// What may happen to a range's keys on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceState {
    /// Reads and writes.
    Open,
    /// Reads, and writes that mark what they touch; the range is being copied away.
    Moving,
    /// Reads only, for a moment.
    Frozen,
    /// Nothing; another shard owns it.
    Gone,
}

impl FenceState {
    /// As stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Moving => "moving",
            Self::Frozen => "frozen",
            Self::Gone => "gone",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        [Self::Open, Self::Moving, Self::Frozen, Self::Gone]
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| Error::corrupt(format_args!("unknown fence state {text}")))
    }

    /// Whether this shard answers reads of the range.
    #[must_use]
    pub fn takes_reads(self) -> bool {
        self != Self::Gone
    }

    /// Whether this shard takes writes of the range. Those to one that is moving are marked, where
    /// [`OwnedTransaction`](crate::owned::OwnedTransaction) asks this.
    #[must_use]
    pub fn takes_writes(self) -> bool {
        matches!(self, Self::Open | Self::Moving)
    }
}

/// A fence as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The keys.
    pub range: KeyRange,
    /// Since when this shard owns them.
    pub epoch: Epoch,
    /// What may happen to them.
    pub state: FenceState,
}

impl Fence {
    /// Whether it is the fence of `assignment`: the same range, at the same epoch.
    fn is_of(&self, assignment: &Assignment) -> bool {
        self.range == assignment.range && self.epoch == assignment.epoch
    }
}

/// Proof that a fence was asked, and that this shard answers reads of its range.
#[derive(Clone, Copy, Debug)]
pub struct ReadPermit(());

/// Uses the primary key.
const FENCES_BY_START: &str =
    "SELECT range_start, range_end, epoch, state FROM fences WHERE range_start IN (";
/// `fences` on a server that may write the shard; no rows on another one. Uses the primary key of `writer`.
macro_rules! writable_fences {
    () => {
        "fences LEFT JOIN writer ON slot = 1 WHERE (server IS NULL OR server = {this_server})"
    };
}
/// Uses the primary key.
const WRITABLE_FENCES_BY_START: &str = concat!(
    "SELECT range_start, range_end, epoch, state FROM ",
    writable_fences!(),
    " AND range_start IN ("
);
/// The whole table: a handful of rows.
const ALL_FENCES: &str =
    "SELECT range_start, range_end, epoch, state FROM fences ORDER BY range_start";
/// Within another statement, by the primary key: locks the fence of an assignment shared, and gives its state; NULL by the
/// rule of [`Fence::is_of`].
const STATE_OF_FENCE: &str = concat!(
    "(SELECT state FROM ",
    writable_fences!(),
    " AND range_start = ? AND (range_end = ? OR (range_end IS NULL AND ? IS NULL)) AND epoch = ? {for_share})"
);
const INSERT_FENCES: &str = "INSERT INTO fences (range_start, range_end, epoch, state) VALUES ";
/// The whole table.
const GIVE_ALL_UP: &str = "UPDATE fences SET state = ?";
const REPLACE_FENCES: &str = " {on_duplicate range_start} range_end = {new range_end}, epoch = {new epoch}, state = {new state}";

fn fence(row: &Row) -> Result<Fence> {
    let mut columns = row.columns();
    Ok(Fence {
        range: KeyRange {
            start: columns.key()?.0,
            end: end_of(&mut columns)?,
        },
        epoch: Epoch::from_i64(columns.int()?),
        state: FenceState::parse(&columns.text()?)?,
    })
}

/// The end of a fence's range, NULL at the end of the key space.
fn end_of(columns: &mut Columns<'_>) -> Result<Option<u64>> {
    let end = columns
        .opt_bytes()?
        .map(|bytes| UserKey::from_bytes(&bytes).ok_or_else(|| Error::corrupt("a fence's end")));
    Ok(end.transpose()?.map(|key| key.0))
}

async fn fetch(
    connection: &mut Connection,
    by_start: &str,
    assignments: &[&Assignment],
    lock: &str,
) -> Result<Vec<Fence>> {
    let starts: Vec<[u8; 8]> = assignments
        .iter()
        .map(|assignment| UserKey(assignment.range.start).to_bytes())
        .collect();
    let args: Vec<Value<'_>> = starts.iter().map(Value::from).collect();
    let statement = format!("{by_start}{}) {lock}", placeholders(args.len()));
    connection
        .fetch_all(&statement, &args)
        .await?
        .iter()
        .map(fence)
        .collect()
}

/// In a write transaction: locks the fences of `assignments` (no two alike) shared, and gives the state of each that there
/// is; of none on a server that may not write the shard.
///
/// # Errors
/// When the database fails.
pub(crate) async fn lock(
    connection: &mut Connection,
    assignments: &[&Assignment],
) -> Result<Vec<Option<FenceState>>> {
    let fences = fetch(
        connection,
        WRITABLE_FENCES_BY_START,
        assignments,
        "{for_share}",
    )
    .await?;
    let state = |assignment: &&Assignment| {
        let fence = fences.iter().find(|fence| fence.is_of(assignment));
        fence.map(|fence| fence.state)
    };
    Ok(assignments.iter().map(state).collect())
}

/// Columns for the select list of a write transaction's first statement, one for each of `assignments` (no two alike),
/// and their values: what [`lock`] does, without a statement of its own.
pub(crate) struct LockingColumns(Vec<Bounds>);

type Bounds = ([u8; 8], Option<[u8; 8]>, Epoch);

impl LockingColumns {
    pub(crate) fn of(assignments: &[&Assignment]) -> Self {
        let bounds = |a: &&Assignment| {
            let end = a.range.end.map(|end| UserKey(end).to_bytes());
            (UserKey(a.range.start).to_bytes(), end, a.epoch)
        };
        Self(assignments.iter().map(bounds).collect())
    }

    /// `, (SELECT …), (SELECT …)`
    pub(crate) fn columns(&self) -> String {
        format!(", {STATE_OF_FENCE}").repeat(self.0.len())
    }

    /// The states, by a row of the statement whose columns from `first` on are these; as [`lock`] gives them.
    pub(crate) fn states(&self, row: &Row, first: usize) -> Result<Vec<Option<FenceState>>> {
        let state = |column| {
            let state = row.opt_text(column)?;
            state.as_deref().map(FenceState::parse).transpose()
        };
        (first..first + self.0.len()).map(state).collect()
    }

    pub(crate) fn values(&self) -> Vec<Value<'_>> {
        self.0
            .iter()
            .flat_map(|(start, end, epoch)| values![start, end.as_ref(), end.as_ref(), *epoch])
            .collect()
    }
}

/// Asks, without a lock, whether this shard answers reads of the range.
///
/// # Errors
/// [`Error::NotOwner`] when it does not.
pub(crate) async fn permit_read(
    connection: &mut Connection,
    shard: &ShardName,
    assignment: &Assignment,
) -> Result<ReadPermit> {
    let fences = fetch(connection, FENCES_BY_START, &[assignment], "").await?;
    permit(fences.first(), shard, assignment)
}

/// Within a read of a range's rows, which is then of one moment with its fence: [`READ_FENCE_COLUMNS`], and this after the
/// other tables, with the value of [`read_fence_start`].
pub(crate) const JOIN_READ_FENCE: &str = " LEFT JOIN fences f ON f.range_start = ?";
pub(crate) const READ_FENCE_COLUMNS: &str = "f.range_end, f.epoch, f.state";

/// Where the fence of `assignment` begins, as it is stored.
pub(crate) fn read_fence_start(assignment: &Assignment) -> [u8; 8] {
    UserKey(assignment.range.start).to_bytes()
}

/// Asks, by the next columns of a row of such a read, which are [`READ_FENCE_COLUMNS`], whether this shard answered reads
/// of the range when the row was read.
///
/// # Errors
/// [`Error::NotOwner`] when it did not.
pub(crate) fn permit_read_of_row(
    columns: &mut Columns<'_>,
    shard: &ShardName,
    assignment: &Assignment,
) -> Result<ReadPermit> {
    let range = KeyRange {
        start: assignment.range.start,
        end: end_of(columns)?,
    };
    let fence = match columns.opt_int()?.map(Epoch::from_i64) {
        Some(epoch) => Some(Fence {
            range,
            epoch,
            state: FenceState::parse(&columns.text()?)?,
        }),
        None => None,
    };
    permit(fence.as_ref(), shard, assignment)
}

fn permit(fence: Option<&Fence>, shard: &ShardName, assignment: &Assignment) -> Result<ReadPermit> {
    match fence {
        Some(fence) if fence.is_of(assignment) && fence.state.takes_reads() => Ok(ReadPermit(())),
        _ => Err(Error::NotOwner(shard.clone())),
    }
}

/// All fences of a shard, in key order.
///
/// # Errors
/// When the database fails.
pub async fn all(connection: &mut Connection) -> Result<Vec<Fence>> {
    connection
        .fetch_all(ALL_FENCES, &[])
        .await?
        .iter()
        .map(fence)
        .collect()
}

/// How a shard's fences differ from what the map gives it, in words; empty when they agree.
#[must_use]
pub fn disagreements(map: &ShardMap, shard: &ShardName, fences: &[Fence]) -> Vec<String> {
    let owned: Vec<&Assignment> = map.ranges_of(shard).collect();
    let live = || {
        fences
            .iter()
            .filter(|fence| fence.state != FenceState::Gone)
    };
    let missing = owned
        .iter()
        .filter(|assignment| !live().any(|fence| fence.is_of(assignment)))
        .map(|assignment| {
            let (range, epoch) = (assignment.range, assignment.epoch);
            format!("the map gives it {range} at epoch {epoch}, its fences do not")
        });
    let extra = live()
        .filter(|fence| !owned.iter().any(|assignment| fence.is_of(assignment)))
        .map(|fence| {
            let (range, epoch) = (fence.range, fence.epoch);
            format!("it has a fence for {range} at epoch {epoch}, the map does not give it that")
        });
    missing.chain(extra).collect()
}

/// In a write transaction: opens the fences of `assignments`, and no others. This is only for making a deployment and for
/// giving a shard another database: it must be known that no other database has them.
///
/// # Errors
/// When the database fails.
pub(crate) async fn open(connection: &mut Connection, assignments: &[&Assignment]) -> Result<()> {
    if assignments.is_empty() {
        return Ok(());
    }
    let bounds: Vec<([u8; 8], Option<[u8; 8]>)> = assignments
        .iter()
        .map(|a| {
            let end = a.range.end.map(|end| UserKey(end).to_bytes());
            (UserKey(a.range.start).to_bytes(), end)
        })
        .collect();
    let mut args = Vec::with_capacity(4 * assignments.len());
    for (assignment, (start, end)) in assignments.iter().zip(&bounds) {
        args.extend(values![
            start,
            end.as_ref(),
            assignment.epoch,
            FenceState::Open.name()
        ]);
    }
    let rows = rows_of(assignments.len(), 4);
    let statement = format!("{INSERT_FENCES}{rows}{REPLACE_FENCES}");
    connection.execute(&statement, &args).await.map(drop)
}

/// In a write transaction: opens the fences of `assignments`, and gives every other one up.
///
/// # Errors
/// When the database fails.
pub(crate) async fn reset(connection: &mut Connection, assignments: &[&Assignment]) -> Result<()> {
    let args = values![FenceState::Gone.name()];
    connection.execute(GIVE_ALL_UP, &args).await?;
    open(connection, assignments).await
}
