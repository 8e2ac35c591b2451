//! The freeze and the commit.
//!
//! Writers of the range wait from the change of the source's fence until the target's fence opens. In between the last marks are
//! copied and what was touched is compared. Whatever goes wrong, or takes too long, ends the freeze: first in the directory, so
//! that this attempt can no longer be committed, then at the source. Whether a commit whose answer was lost has happened is
//! asked by that same statement.

use std::time::{Duration, Instant};

use super::run::Runner;
use super::{Move, MoveState, Step, fences, job, marks, serving};
use crate::error::{Error, Result};
use crate::metrics;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The target serves the range.
    Served(Duration),
    /// The range takes writes on the source again.
    Ended(String),
    /// The directory does not let it freeze: it is paused, or given up.
    Refused,
}

impl Runner<'_> {
    /// Freezes the range, copies and compares the rest, and commits.
    ///
    /// # Errors
    /// What stops the runner; the range is then as the directory says, or any process makes it so.
    pub(super) async fn freeze(&mut self, job: &Move) -> Result<Attempt> {
        let sides = self.sides(job, None)?;
        let begun = sides.in_directory(async |it| {
            let frozen = job::freeze(it, job, self.settings().freeze_lease.0).await?;
            if frozen {
                let words = format!("attempt {}", job.attempt + 1);
                job::note(it, job.id, self.actor(), ("freezing", &words)).await?;
            }
            Ok(frozen)
        });
        if !begun.await? {
            return Ok(Attempt::Refused);
        }
        let job = &self.fresh(job).await?;
        if job.state != MoveState::Frozen {
            return Ok(Attempt::Refused);
        }
        self.passed(Step::FreezeNoted)?;
        let start = Instant::now();
        match self
            .frozen(job, start + self.settings().longest_freeze.0)
            .await
        {
            Ok(()) => {}
            Err(error @ Error::Closing) => return Err(error),
            Err(error) => {
                let sides = self.sides(job, None)?;
                serving::end_freeze(&sides, &error.to_string()).await?;
                let now = self.fresh(job).await?;
                if now.state != MoveState::Committed {
                    if let Error::Corrupt(_) = error {
                        return self.refuse_frozen(&now, error).await; // nobody was writing
                    }
                    metrics::MOVE_FREEZES_ENDED.increment(1);
                    return Ok(Attempt::Ended(error.to_string()));
                }
            }
        }
        self.passed(Step::Committed)?;
        let job = &self.fresh(job).await?;
        serving::settle(&self.sides(job, None)?).await?;
        let took = start.elapsed();
        metrics::MOVE_FREEZE_SECONDS.record(took.as_secs_f64());
        self.look_after_cut_over(job).await?;
        Ok(Attempt::Served(took))
    }

    async fn refuse_frozen(&self, job: &Move, error: Error) -> Result<Attempt> {
        let words = error.to_string();
        let sides = self.sides(job, None)?;
        sides
            .in_directory(async |it| {
                job::note(it, job.id, self.actor(), ("differs", &words)).await?;
                job::pause(it, job, true).await
            })
            .await?;
        Err(error)
    }

    async fn frozen(&mut self, job: &Move, limit: Instant) -> Result<()> {
        let sides = self.sides(job, Some(limit))?;
        sides
            .on_source(async |it| fences::freeze(it, job).await)
            .await?;
        self.passed(Step::Frozen)?;
        let copied = self.copy_rest(job, limit).await?;
        let compared = self.compare_touched(job, limit).await?;
        self.passed(Step::RestCopied)?;
        let sides = self.sides(job, Some(limit))?;
        sides
            .on_source(async |it| {
                marks::clear(it, &copied).await?;
                fences::give_up(it, job).await
            })
            .await?;
        self.passed(Step::GivenUp)?;
        let words = format!(
            "attempt {}: {} marks copied, {compared} entities compared",
            job.attempt,
            copied.len()
        );
        serving::commit(&self.sides(job, Some(limit))?, &words).await
    }
}
