//! Making the fences say what the directory says.
//!
//! The directory's row of a move decides, and the fences of both shards follow: [`settle`] is what every process does that finds
//! them behind, after a crash at any point. Each statement is conditional, so any number of processes may do it at once, and a
//! late one changes nothing.

use super::job::{Move, MoveId, MoveState};
use super::{Sides, Step, fences, job};
use crate::db::Connection;
use crate::directory;
use crate::error::{Error, Result};
use crate::map::Assignment;

/// After a crash, or when a request waits for a range: the fences follow the directory. A freeze that has lapsed ends; one that
/// has not is left alone. What remains to be done to a move is for its runner.
///
/// # Errors
/// When a database fails; then they are as they were, or as they have to be.
pub(crate) async fn settle(sides: &Sides<'_>) -> Result<()> {
    let job = sides.job;
    match job.state {
        MoveState::Copying => sides.on_source(async |it| fences::cut(it, job).await).await,
        MoveState::CatchingUp => {
            sides
                .on_source(async |it| fences::unfreeze(it, job).await)
                .await
        }
        MoveState::Frozen if job.has_lapsed() => end_freeze(sides, "lapsed").await,
        MoveState::Committed => {
            open_target(sides).await?;
            drain(sides).await
        }
        MoveState::Aborting => {
            sides
                .on_source(async |it| fences::reopen(it, job).await)
                .await
        }
        MoveState::Frozen
        | MoveState::Draining
        | MoveState::Done
        | MoveState::Aborted
        | MoveState::Reversed => Ok(()),
    }
}

/// Ends this attempt to freeze: first in the directory, after which it cannot be committed any more, then on the source.
pub(crate) async fn end_freeze(sides: &Sides<'_>, why: &str) -> Result<()> {
    let job = sides.job;
    let ended = sides.in_directory(async |it| {
        let ended = job::unfreeze(it, job).await?;
        if ended {
            let words = format!("attempt {}: {why}", job.attempt);
            job::note(it, job.id, sides.actor, ("unfrozen", &words)).await?;
        }
        Ok(ended)
    });
    if ended.await? {
        sides.passed(Step::FreezeEnded)?;
        sides
            .on_source(async |it| fences::unfreeze(it, job).await)
            .await?;
    }
    Ok(())
}

/// After the commit: the target serves the range.
pub(crate) async fn open_target(sides: &Sides<'_>) -> Result<()> {
    sides
        .on_target(async |it| fences::open(it, sides.job).await)
        .await?;
    sides.passed(Step::TargetOpened)
}

/// After [`open_target`]: the directory knows that the target serves the range.
pub(crate) async fn drain(sides: &Sides<'_>) -> Result<()> {
    let job = sides.job;
    sides
        .in_directory(async |it| {
            if job::drain(it, job, sides.settings.keep.0).await? {
                let words = format!("shard {} serves {}", job.target, job.range);
                job::note(it, job.id, sides.actor, ("served", &words)).await?;
            }
            Ok(())
        })
        .await
}

/// The point of no return: in one transaction of the directory the move is committed, if its freeze is in time, and the map
/// names the target. Writers wait for it, so its statements are sent together.
///
/// # Errors
/// [`Error::Conflict`] when the freeze has lapsed or another runner has taken over: then nothing was changed.
pub(crate) async fn commit(sides: &Sides<'_>, words: &str) -> Result<()> {
    let job = sides.job;
    let assignment = Assignment {
        range: job.range,
        shard: job.source.clone(),
        epoch: job.epoch,
    };
    let bounds = directory::bounds(&assignment);
    sides
        .in_directory(async |it| {
            let answers = it
                .run_all(&[
                    directory::locking(),
                    job::committing(job),
                    directory::giving(&assignment, &bounds, &job.target),
                    job::noting(&job.id, sides.actor, ("committed", words)),
                ])
                .await?;
            let changed: Vec<u64> = answers.iter().map(|it| it.changed).collect();
            match changed.as_slice() {
                [_, 1, 1, 1] => Ok(()),
                [_, 1, ..] => Err(Error::Conflict("the map has changed; try again")),
                _ => Err(Error::Conflict(
                    "the freeze ended before the move was committed",
                )),
            }
        })
        .await
}

/// The move as the directory has it now.
///
/// # Errors
/// [`Error::NotFound`]; when the database fails.
pub(crate) async fn read(connection: &mut Connection, id: MoveId) -> Result<Move> {
    job::one(connection, id)
        .await?
        .ok_or(Error::NotFound("move"))
}
