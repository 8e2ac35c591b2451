//! Who may change the rows of a range that a shard does not serve: one row of `arrivals` a move, in the shard's own database.
//!
//! The target has it while rows are copied to it, with how far the copy is; either shard has it while rows are deleted. Every
//! transaction first changes the row and names its runner, so a runner that was overtaken changes nothing more, and progress
//! is committed with the rows that it is about. While there is such a row, no archive job takes or keeps a lease on the
//! shard: its jobs look at whole tables. It is put down when no transaction of a job is under way.

use super::fences;
use super::job::{self, Move, MoveId};
use super::rows::{self, Cell};
use crate::archive;
use crate::db::{Connection, Statement, values};
use crate::error::{Error, Result};
use crate::ids::ShardName;
use crate::model::Timestamp;
use crate::range::KeyRange;

/// How far the copy of a range is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many tables are copied.
    pub(crate) step: usize,
    /// The last key of the next table that is copied.
    pub(crate) after: Option<Vec<Cell>>,
    /// Rows that were copied.
    pub(crate) rows: u64,
    /// About how many bytes these have.
    pub(crate) bytes: u64,
}

const SELECT: &str = "SELECT step, position, copied_rows, copied_bytes FROM arrivals WHERE job = ?";
const BEGIN: &str = "INSERT INTO arrivals (job, range_start, range_end, runner, step, position, copied_rows, copied_bytes, beat) \
     VALUES (?, ?, ?, ?, 0, '', 0, 0, {now})";
const TAKE: &str = "UPDATE arrivals SET runner = ?, beat = {now} WHERE job = ? AND runner <= ?";
const CHECK: &str = "UPDATE arrivals SET runner = ?, beat = {now} WHERE job = ? AND runner = ?";
const ADVANCE: &str =
    "UPDATE arrivals SET step = ?, position = ?, copied_rows = ?, copied_bytes = ? WHERE job = ?";
const BEAT: &str = "SELECT beat FROM arrivals WHERE job = ?";
const END: &str = "DELETE FROM arrivals WHERE job = ? AND runner = ?";
const FORGET: &str = "DELETE FROM arrivals WHERE job = ?";
/// The whole table: a row a move that is under way.
const ALL: &str = "SELECT job, range_start, range_end FROM arrivals";

/// In a write transaction on `shard`, by a runner that has the move's lease: the right to change the rows of its range there.
/// Other moves had it before that are over: their runners lose it.
///
/// # Errors
/// [`Error::Busy`] when the shard serves part of the range, [`Error::LeaseLost`] when a later runner has it; when the database
/// fails.
pub(crate) async fn begin(
    connection: &mut Connection,
    shard: &ShardName,
    job: &Move,
) -> Result<()> {
    fences::require_absent(connection, job.range, shard).await?;
    let mut is_there = false;
    for (id, range) in all(connection).await? {
        if id == job.id {
            is_there = true;
        } else if range.overlaps(&job.range) {
            connection.run_all(&[forgetting(&id)]).await?;
        }
    }
    let runner = job.runner.cast_signed();
    let changed = if is_there {
        let args = values![runner, job.id.as_bytes(), runner];
        connection.execute(TAKE, &args).await?
    } else {
        archive::lock_out_jobs(connection).await?;
        let (start, end) = (
            job.range.start.to_be_bytes(),
            job.range.end.map(u64::to_be_bytes),
        );
        let args = values![job.id.as_bytes(), &start, end.as_ref(), runner];
        connection.execute(BEGIN, &args).await?
    };
    one_row(changed, shard)
}

/// First in a write transaction on `shard` that changes rows of the range: it is still this runner's to do.
///
/// # Errors
/// [`Error::LeaseLost`], or [`Error::Busy`] when the shard serves part of the range; when the database fails.
pub(crate) async fn check(
    connection: &mut Connection,
    shard: &ShardName,
    job: &Move,
) -> Result<()> {
    let runner = job.runner.cast_signed();
    let checked = Statement::new(CHECK, values![runner, job.id.as_bytes(), runner]);
    let answers = connection.run_all(&[checked, fences::live()]).await?;
    let [checked, live] = answers.as_slice() else {
        return Err(Error::Unexpected("two statements have other answers"));
    };
    one_row(checked.changed, shard)?;
    fences::none_of(&live.rows, job.range, shard)
}

/// In a write transaction, after [`check`], with the rows: how far the copy is now.
///
/// # Errors
/// When the database fails.
pub(crate) async fn advance(
    connection: &mut Connection,
    job: &Move,
    progress: &Progress,
) -> Result<()> {
    let position = rows::key_to_bytes(progress.after.as_deref().unwrap_or_default());
    let step = i64::try_from(progress.step).unwrap_or(i64::MAX);
    let (rows, bytes) = (progress.rows.cast_signed(), progress.bytes.cast_signed());
    let args = values![step, position.as_slice(), rows, bytes, job.id.as_bytes()];
    connection.execute(ADVANCE, &args).await.map(drop)
}

/// How far the copy is; none where nothing was begun.
///
/// # Errors
/// When the database fails.
pub(crate) async fn progress(connection: &mut Connection, id: MoveId) -> Result<Option<Progress>> {
    let row = connection
        .fetch_optional(SELECT, &values![id.as_bytes()])
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Progress {
        step: usize::try_from(row.int(0)?).map_err(|_| Error::corrupt("a step of a move"))?,
        after: rows::key_from_bytes(&row.bytes(1)?)?,
        rows: row.int(2)?.cast_unsigned(),
        bytes: row.int(3)?.cast_unsigned(),
    }))
}

/// When this move last changed rows on this database, by the clock of its primary.
///
/// # Errors
/// When the database fails.
pub(crate) async fn beat(connection: &mut Connection, id: MoveId) -> Result<Option<Timestamp>> {
    let row = connection
        .fetch_optional(BEAT, &values![id.as_bytes()])
        .await?;
    row.map(|row| row.int(0).map(Timestamp)).transpose()
}

/// In a write transaction: nothing more is changed on the shard by this move.
///
/// # Errors
/// When the database fails.
pub(crate) async fn end(connection: &mut Connection, job: &Move) -> Result<()> {
    let args = values![job.id.as_bytes(), job.runner.cast_signed()];
    connection.execute(END, &args).await.map(drop)
}

/// In the transaction with which the shard begins to serve the range: nothing of it is copied or deleted any more.
pub(crate) fn forgetting(id: &MoveId) -> Statement<'_> {
    Statement::new(FORGET, values![id.as_bytes()])
}

/// The moves that change rows on this shard, with their ranges.
///
/// # Errors
/// When the database fails.
pub(crate) async fn all(connection: &mut Connection) -> Result<Vec<(MoveId, KeyRange)>> {
    let rows = connection.fetch_all(ALL, &[]).await?;
    let one = |row: &crate::db::Row| Ok((MoveId::from_bytes(&row.bytes(0)?)?, job::range(row, 1)?));
    rows.iter().map(one).collect()
}

fn one_row(changed: u64, shard: &ShardName) -> Result<()> {
    match changed {
        1 => Ok(()),
        _ => Err(Error::LeaseLost(shard.clone())),
    }
}
