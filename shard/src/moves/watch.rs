//! What every node does for moves by itself: their fences follow the directory, and a move without a runner gets one.
//!
//! So a move whose process died goes on once its lease has ended, and a range whose freeze has lapsed takes writes again about
//! a second later. Any number of nodes may do this at once.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Move, Mover, serving};
use crate::error::{Error, Result};
use crate::routing::Router;
use crate::tasks::TaskGroup;

/// How often the directory is asked for moves.
const EVERY: Duration = Duration::from_secs(1);

/// Starts both under `tasks`, until `stop`. `name` is this node's, for people.
pub fn start(router: &Arc<Router>, name: &str, tasks: &TaskGroup, stop: &CancellationToken) {
    let mover = Mover::new(Arc::clone(router), name).stopped_by(stop.clone());
    let mover = Arc::new(mover);
    let (settling, stopping) = (Arc::clone(&mover), stop.clone());
    tasks.supervise("moves-settle", stop, move || {
        again_and_again(Arc::clone(&settling), stopping.clone(), false)
    });
    let (running, stopping) = (mover, stop.clone());
    tasks.supervise("moves-run", stop, move || {
        again_and_again(Arc::clone(&running), stopping.clone(), true)
    });
}

impl Mover {
    /// Makes the fences of all moves that are under way, and of ranges that were merged, say what the directory says. What one move
    /// needs does not keep the others waiting.
    ///
    /// # Errors
    /// When the directory fails.
    pub async fn settle(&self) -> Result<()> {
        // Of a shard that is away others tell; it is looked at again.
        if let Err(error) = self.settle_merged().await
            && !error.is_retryable()
        {
            tracing::warn!(%error, "the fences of merged ranges cannot be made to follow the map now");
        }
        for job in self.unfinished().await? {
            let settled = match self.sides_of(&job) {
                Ok(sides) => serving::settle(&sides).await,
                Err(error) => Err(error),
            };
            if let Err(error) = settled {
                tracing::warn!(job = %job.id, %error, "the fences of a move cannot be made to follow the directory now");
            }
        }
        Ok(())
    }
}

/// On a thread of its own: what is done between two waits never holds up requests.
async fn again_and_again(mover: Arc<Mover>, stop: CancellationToken, runs: bool) {
    let mut last = String::new();
    while stop
        .run_until_cancelled(tokio::time::sleep(EVERY))
        .await
        .is_some()
    {
        let (mover, runtime) = (Arc::clone(&mover), tokio::runtime::Handle::current());
        let round = move || {
            runtime.block_on(async {
                match runs {
                    true => run_what_is_due(&mover).await,
                    false => mover.settle().await,
                }
            })
        };
        let why = match tokio::task::spawn_blocking(round).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if !why.is_empty() && why != last {
            tracing::warn!(error = why, "moves between shards do not go on now");
        }
        last = why;
    }
}

async fn run_what_is_due(mover: &Mover) -> Result<()> {
    for job in mover.unfinished().await? {
        if !is_due(&job) {
            continue;
        }
        match mover.run(job.id).await {
            Ok(job) => {
                tracing::info!(job = %job.id, state = job.state.name(), "a move has come further")
            }
            // Another node was sooner, or something has to end first.
            Err(Error::Busy(why)) => tracing::debug!(job = %job.id, why, "a move waits"),
            Err(Error::LeaseLost(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_due(job: &Move) -> bool {
    let waits = job.is_kept() || (job.paused && job.state.precedes_commit());
    !job.is_run() && !waits
}
