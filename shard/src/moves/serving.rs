//! Making the fences say what the directory says.
//!
//! The directory's row of a move decides, and the fences of both shards follow: [`settle`] is what every process does that finds
//! them behind, after a crash at any point. Each statement is conditional, so any number of processes may do it at once, and a
//! late one changes nothing.

use super::job::{Move, MoveId, MoveState};
use super::{Sides, Step, fences, job, work};
use crate::db::Connection;
use crate::directory;
use crate::error::{Error, Result};

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
        MoveState::Committed => complete(sides).await,
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

/// After the commit: the target serves the range, and then the directory knows that it does.
async fn complete(sides: &Sides<'_>) -> Result<()> {
    let job = sides.job;
    sides
        .on_target(async |it| {
            // First, since whoever comes second waits for the row, and then finds the fence.
            work::forget(it, job.id).await?;
            fences::open(it, job).await
        })
        .await?;
    sides.passed(Step::TargetOpened)?;
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
/// names the target.
///
/// # Errors
/// [`Error::Conflict`] when the freeze has lapsed or another runner has taken over: then nothing was changed.
pub(crate) async fn commit(sides: &Sides<'_>, words: &str) -> Result<()> {
    let job = sides.job;
    sides
        .in_directory(async |it| {
            directory::lock(it, sides.router.settings()).await?;
            if !job::commit(it, job).await? {
                return Err(Error::Conflict(
                    "the freeze ended before the move was committed",
                ));
            }
            let assignment = crate::map::Assignment {
                range: job.range,
                shard: job.source.clone(),
                epoch: job.epoch,
            };
            directory::give(it, &assignment, &job.target).await?;
            job::note(it, job.id, sides.actor, ("committed", words)).await
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
