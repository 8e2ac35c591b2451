//! What a move does to the fences of its two shards (INV-OWNER).
//!
//! | on | from | to | by |
//! |---|---|---|---|
//! | source | one fence at the epoch before | the same keys in pieces at the move's epoch | [`cut`] |
//! | source | `open` | `moving` | [`begin_moving`], while no archive job has a lease |
//! | source | `moving` | `frozen` at an attempt | [`freeze`] |
//! | source | `frozen` at that attempt | `gone` | [`give_up`], before the commit in the directory |
//! | source | `frozen` or `gone` at an attempt that is over | `moving` | [`unfreeze`] |
//! | source | any but `open` | `open` | [`reopen`], when the move is given up |
//! | target | none, or `gone` | `open` at the next epoch | [`open`], after the commit |
//! | any | several `open` ones | one `open` at a greater epoch | [`merge`], when the map was merged |
//!
//! Every statement names the move, and after a freeze the attempt, so one that comes late finds no row. A fence keeps the name of
//! the move that changed it last, and a move takes a fence from `open` once only: one that was given up cannot begin again.

use super::job::{self, Move, MoveId};
use super::work;
use crate::archive::held_leases;
use crate::db::{Connection, Row, Statement, Value, rows_of, values};
use crate::error::{Error, Result};
use crate::fence::FenceState;
use crate::ids::{Epoch, ShardName};
use crate::map::Assignment;
use crate::range::KeyRange;

/// A fence with the move that changed it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MovedFence {
    range: KeyRange,
    epoch: Epoch,
    state: FenceState,
    job: Option<MoveId>,
}

macro_rules! fence_columns {
    () => {
        "SELECT range_start, range_end, epoch, state, job FROM fences"
    };
}

/// By the primary key.
const AT: &str = concat!(fence_columns!(), " WHERE range_start = ? {for_update}");
/// By the primary key; the nearest one before that is not given up.
const BEFORE: &str = concat!(
    fence_columns!(),
    " WHERE range_start <= ? AND state <> 'gone' ORDER BY range_start DESC LIMIT 1 {for_update}"
);
/// The whole table: a handful of rows.
const LIVE: &str = concat!(fence_columns!(), " WHERE state <> 'gone'");
const LIVE_LOCKED: &str = concat!(fence_columns!(), " WHERE state <> 'gone' {for_update}");
const DELETE: &str = "DELETE FROM fences WHERE range_start = ?";
const INSERT: &str = "INSERT INTO fences (range_start, range_end, epoch, state) VALUES ";
const BEGIN: &str = "UPDATE fences SET state = 'moving', job = ?, attempt = NULL WHERE range_start = ? AND epoch = ? AND state = 'open'";
const FREEZE: &str = "UPDATE fences SET state = 'frozen', attempt = ? WHERE range_start = ? AND epoch = ? AND job = ? AND state = 'moving'";
const GIVE_UP: &str = "UPDATE fences SET state = 'gone' WHERE range_start = ? AND epoch = ? AND job = ? AND state = 'frozen' AND attempt = ?";
const UNFREEZE: &str = "UPDATE fences SET state = 'moving', attempt = NULL WHERE range_start = ? AND epoch = ? AND job = ? \
     AND state IN ('frozen', 'gone') AND attempt <= ?";
const REOPEN: &str = "UPDATE fences SET state = 'open', attempt = NULL WHERE range_start = ? AND epoch = ? AND job = ? AND state <> 'open'";
const OPEN_NEW: &str =
    "INSERT INTO fences (range_start, range_end, epoch, state, job) VALUES (?, ?, ?, 'open', ?)";
const OPEN_AGAIN: &str = "UPDATE fences SET range_end = ?, epoch = ?, state = 'open', job = ?, attempt = NULL WHERE range_start = ?";

impl MovedFence {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            range: job::range(row, 0)?,
            epoch: Epoch::from_i64(row.int(2)?),
            state: FenceState::parse(&row.text(3)?)?,
            job: row
                .opt_bytes(4)?
                .map(|id| MoveId::from_bytes(&id))
                .transpose()?,
        })
    }
}

async fn at(connection: &mut Connection, start: u64) -> Result<Option<MovedFence>> {
    let start = start.to_be_bytes();
    let row = connection.fetch_optional(AT, &values![&start]).await?;
    row.as_ref().map(MovedFence::from_row).transpose()
}

/// In a write transaction on the source: cuts the fence that has the move's range and more, as the map was cut when the move
/// was put down. Done before, it changes nothing.
///
/// # Errors
/// [`Error::NotOwner`] when the source has no such fence; when the database fails.
pub(crate) async fn cut(connection: &mut Connection, job: &Move) -> Result<()> {
    let is_cut = |it: &MovedFence| it.range == job.range && it.epoch >= job.epoch;
    let start = job.range.start.to_be_bytes();
    // Locked before it is looked for, so of several processes that cut at once the later ones find it cut.
    let row = connection.fetch_optional(BEFORE, &values![&start]).await?;
    let fence = row.as_ref().map(MovedFence::from_row).transpose()?;
    if at(connection, job.range.start)
        .await?
        .as_ref()
        .is_some_and(is_cut)
    {
        return Ok(());
    }
    let not_owner = || Error::NotOwner(job.source.clone());
    let whole = fence.ok_or_else(not_owner)?;
    let fits = whole.state == FenceState::Open
        && whole.range.covers(&job.range)
        && whole.epoch.next() == job.epoch;
    if !fits {
        return Err(not_owner());
    }
    let first = whole.range.start.to_be_bytes();
    connection.execute(DELETE, &values![&first]).await?;
    let pieces: Vec<([u8; 8], Option<[u8; 8]>)> = whole
        .range
        .cut(job.range)
        .iter()
        .map(|piece| (piece.start.to_be_bytes(), piece.end.map(u64::to_be_bytes)))
        .collect();
    let mut args: Vec<Value<'_>> = Vec::new();
    for (start, end) in &pieces {
        args.extend(values![
            start,
            end.as_ref(),
            job.epoch,
            FenceState::Open.name()
        ]);
    }
    for (start, _) in &pieces[..] {
        // Only a fence that this shard gave up long ago can be in the way: it was the start of another range.
        let gone = at(connection, u64::from_be_bytes(*start)).await?;
        match gone.map(|it| it.state) {
            None => {}
            Some(FenceState::Gone) => {
                connection.execute(DELETE, &values![start]).await?;
            }
            Some(_) => return Err(not_owner()),
        }
    }
    let rows = rows_of(pieces.len(), 4);
    connection
        .execute(&format!("{INSERT}{rows}"), &args)
        .await
        .map(drop)
}

/// In a write transaction on the source: from now on writers of the range mark what they touch, and no archive job begins.
///
/// # Errors
/// [`Error::Busy`] while an archive job has a lease, or another move has the fence; [`Error::NotOwner`]; when the database fails.
pub(crate) async fn begin_moving(connection: &mut Connection, job: &Move) -> Result<()> {
    let fence = at(connection, job.range.start).await?;
    let fence = fence.filter(|it| it.range == job.range && it.epoch == job.epoch);
    let fence = fence.ok_or_else(|| Error::NotOwner(job.source.clone()))?;
    match (fence.state, fence.job == Some(job.id)) {
        (FenceState::Open, false) => {}
        (FenceState::Open, true) => return Err(Error::Conflict("the move was given up")),
        (_, true) => return Ok(()),
        (state, false) => {
            let (shard, range, state) = (&job.source, job.range, state.name());
            return Err(Error::Busy(format!(
                "the fence of {range} on shard {shard} is {state} by another move"
            )));
        }
    }
    if let Some(held) = held_leases(connection).await?.first() {
        return Err(Error::Busy(format!(
            "shard {} is being worked on by {}; the move begins when that is done",
            job.source, held.holder
        )));
    }
    let start = job.range.start.to_be_bytes();
    let args = values![job.id.as_bytes(), &start, job.epoch];
    one_row(connection.execute(BEGIN, &args).await?, &job.source)
}

/// On the source, one statement that is a transaction by itself: its writers in flight have committed, and no other begins.
///
/// # Errors
/// [`Error::NotOwner`] when the fence is not `moving` by this move; when the database fails.
pub(crate) async fn freeze(connection: &mut Connection, job: &Move) -> Result<()> {
    let start = job.range.start.to_be_bytes();
    let attempt = job.attempt.cast_signed();
    let args = values![attempt, &start, job.epoch, job.id.as_bytes()];
    one_row(connection.execute(FREEZE, &args).await?, &job.source)
}

/// On the source, one statement that is a transaction by itself: no reader is answered any more, so the target may answer.
///
/// # Errors
/// [`Error::NotOwner`] when the fence is not `frozen` by this attempt; when the database fails.
pub(crate) async fn give_up(connection: &mut Connection, job: &Move) -> Result<()> {
    let start = job.range.start.to_be_bytes();
    let attempt = job.attempt.cast_signed();
    let args = values![&start, job.epoch, job.id.as_bytes(), attempt];
    one_row(connection.execute(GIVE_UP, &args).await?, &job.source)
}

/// In a write transaction on the source, when the directory says that this attempt is over and not committed: the range takes
/// writes again. A later attempt is not touched.
///
/// # Errors
/// When the database fails.
pub(crate) async fn unfreeze(connection: &mut Connection, job: &Move) -> Result<()> {
    let start = job.range.start.to_be_bytes();
    let attempt = job.attempt.cast_signed();
    let args = values![&start, job.epoch, job.id.as_bytes(), attempt];
    connection.execute(UNFREEZE, &args).await.map(drop)
}

/// In a write transaction on the source, when the directory says that the move is given up: the range is as before it.
///
/// # Errors
/// When the database fails.
pub(crate) async fn reopen(connection: &mut Connection, job: &Move) -> Result<()> {
    let start = job.range.start.to_be_bytes();
    let args = values![&start, job.epoch, job.id.as_bytes()];
    connection.execute(REOPEN, &args).await.map(drop)
}

/// In a write transaction on the target, when the directory says that the move is committed: the shard serves the range, and nothing of
/// it is copied or deleted any more. Done before, it changes nothing, however far the range has moved on. Two round trips.
///
/// # Errors
/// [`Error::Busy`] when it has part of the range already; when the database fails.
pub(crate) async fn open(connection: &mut Connection, job: &Move) -> Result<()> {
    let (start, end) = (
        job.range.start.to_be_bytes(),
        job.range.end.map(u64::to_be_bytes),
    );
    // Forgotten first: of several processes the later ones wait for that row, and then find the fence.
    let answers = connection
        .run_all(&[
            work::forgetting(&job.id),
            Statement::new(AT, values![&start]),
            live(),
        ])
        .await?;
    let [_, at, live] = answers.as_slice() else {
        return Err(Error::Unexpected("three statements have other answers"));
    };
    let epoch = job.epoch.next();
    let at = at.rows.first().map(MovedFence::from_row).transpose()?;
    if at.as_ref().is_some_and(|fence| fence.epoch >= epoch) {
        return Ok(());
    }
    none_of(&live.rows, job.range, &job.target)?;
    let (statement, args) = match at {
        Some(_) => (
            OPEN_AGAIN,
            values![end.as_ref(), epoch, job.id.as_bytes(), &start],
        ),
        None => (
            OPEN_NEW,
            values![&start, end.as_ref(), epoch, job.id.as_bytes()],
        ),
    };
    connection.execute(statement, &args).await.map(drop)
}

/// In a write transaction on the shard that has them: makes open fences, which are together what `whole` is, one at its epoch. Others
/// are left alone: then the map that `whole` is from is old, or a move has them.
///
/// # Errors
/// When the database fails.
pub(crate) async fn merge(connection: &mut Connection, whole: &Assignment) -> Result<()> {
    let rows = connection.fetch_all(LIVE_LOCKED, &[]).await?;
    let live = rows.iter().map(MovedFence::from_row);
    let mut parts: Vec<MovedFence> = live.collect::<Result<_>>()?;
    parts.retain(|it| it.range.overlaps(&whole.range));
    let is_older = |it: &MovedFence| {
        it.state == FenceState::Open && it.epoch < whole.epoch && whole.range.covers(&it.range)
    };
    let width: u128 = parts.iter().map(|it| it.range.width()).sum();
    if parts.len() < 2 || !parts.iter().all(is_older) || width != whole.range.width() {
        return Ok(());
    }
    for part in &parts {
        let start = part.range.start.to_be_bytes();
        connection.execute(DELETE, &values![&start]).await?;
    }
    let start = whole.range.start.to_be_bytes();
    let end = whole.range.end.map(u64::to_be_bytes);
    let state = FenceState::Open.name();
    let args = values![&start, end.as_ref(), whole.epoch, state];
    let statement = format!("{INSERT}{}", rows_of(1, 4));
    connection.execute(&statement, &args).await.map(drop)
}

/// In a write transaction on the source: whether the move was the last to change the fence, and has let go of it. It stays so
/// until the commit.
///
/// # Errors
/// When the database fails.
pub(crate) async fn has_left(connection: &mut Connection, job: &Move) -> Result<bool> {
    let fence = at(connection, job.range.start).await?;
    let has_left = |it: &MovedFence| {
        it.job == Some(job.id) && matches!(it.state, FenceState::Open | FenceState::Gone)
    };
    Ok(fence.as_ref().is_some_and(has_left))
}

/// In a transaction that changes rows of a range that `shard` must not serve: no fence has part of it.
///
/// # Errors
/// [`Error::Busy`] when one has; when the database fails.
pub(crate) async fn require_absent(
    connection: &mut Connection,
    range: KeyRange,
    shard: &ShardName,
) -> Result<()> {
    let rows = connection.fetch_all(LIVE, &[]).await?;
    none_of(&rows, range, shard)
}

/// The statement by whose answer [`none_of`] says whether no fence has part of a range.
pub(super) fn live() -> Statement<'static> {
    Statement::new(LIVE, [])
}

/// No fence of these rows of [`live`] has part of the range.
///
/// # Errors
/// [`Error::Busy`] when one has.
pub(super) fn none_of(rows: &[Row], range: KeyRange, shard: &ShardName) -> Result<()> {
    let live: Vec<MovedFence> = rows
        .iter()
        .map(MovedFence::from_row)
        .collect::<Result<_>>()?;
    match live.iter().find(|fence| fence.range.overlaps(&range)) {
        None => Ok(()),
        Some(fence) => Err(Error::Busy(format!(
            "shard {shard} serves {}, so nothing of {range} is changed there",
            fence.range
        ))),
    }
}

fn one_row(changed: u64, shard: &ShardName) -> Result<()> {
    match changed {
        1 => Ok(()),
        _ => Err(Error::NotOwner(shard.clone())),
    }
}
