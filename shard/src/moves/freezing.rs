//! The freeze and the commit.
//!
//! Writers of the range wait from the change of the source's fence until the target's fence opens. In between the last marks are
//! copied and what was touched is compared. The time that this takes is that of its round trips to the databases one after the other, so
//! what does not depend on an answer is sent together, and both sides are asked at once:
//!
//! | round trips, one after the other | on the source | on the target | in the directory |
//! |---|---|---|---|
//! | the fence says `frozen`; what is marked | 1 + 1 | | |
//! | heads and tables of the rest, then its rows; beside it what was touched before is compared | 2 | 1 | |
//! | the rest is written: begin, the right to do it, what is there, the rows, commit | | 5 | |
//! | the rest is compared: heads and tables, rows; beside it the fence says `gone` | 2 | 2 | |
//! | the commit: begin, all statements, commit | | | 3 |
//! | the fence opens: begin, what is there, the fence, commit | | 4 | |
//!
//! Whatever goes wrong, or takes too long, ends the freeze: first in the directory, so
//! that this attempt can no longer be committed, then at the source. Whether a commit whose answer was lost has happened is
//! asked by that same statement.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::{join, try_join};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::marked::{self, COMPARED, in_parts};
use super::marks::Mark;
use super::run::Runner;
use super::{Move, MoveState, Sides, Step, compare, fences, job, marks, serving};
use crate::error::{Error, Result};
use crate::metrics;
use crate::owned::Entity;

/// A freeze that finds so many marks is ended: more was written since the last round than can be copied while writers wait.
const REST: usize = 4096;
/// How many parts of what was touched are compared at the same time, each with a connection to both sides.
const AT_ONCE: usize = 4;

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
        let limit = start + self.settings().longest_freeze.0;
        let mut copied = Vec::new();
        match self.frozen(job, limit).await {
            Ok(rest) => copied = rest,
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
        let sides = self.sides(job, None)?;
        serving::open_target(&sides).await?;
        let took = start.elapsed();
        metrics::MOVE_FREEZE_SECONDS.record(took.as_secs_f64());
        serving::drain(&sides).await?;
        sides
            .on_source(async |it| marks::clear(it, &copied).await)
            .await?;
        let job = &self.fresh(job).await?;
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

    async fn frozen(&mut self, job: &Move, limit: Instant) -> Result<Vec<Mark>> {
        let rest = self.stop_writers(job, limit).await?;
        let entities: BTreeSet<Entity> = rest.iter().map(|it| it.entity.clone()).collect();
        let later = |all: &BTreeSet<Entity>| all.intersection(&entities).cloned().collect();
        let now = |all: &BTreeSet<Entity>| all.difference(&entities).cloned().collect();
        let sides = self.sides(job, Some(limit))?;
        // What is not marked stays as it is: it is compared while the rest is copied.
        let (copied, compared) = join(
            marked::copy_marked(&sides, &rest),
            self.compare_frozen(&sides, (now(&self.restless), now(&self.touched))),
        )
        .await;
        copied?;
        let compared = compared?;
        if !rest.is_empty() {
            sides.passed(Step::MarksCopied)?;
        }
        sides.passed(Step::RestCopied)?;
        let (last, given_up) = join(
            self.compare_frozen(&sides, (later(&self.restless), entities.clone())),
            self.give_up(job, limit),
        )
        .await;
        given_up?;
        let compared = compared + last?;
        let words = format!(
            "attempt {}: {} marks copied, {compared} entities compared",
            job.attempt,
            rest.len()
        );
        serving::commit(&sides, &words).await?;
        self.copied_last.extend(entities);
        Ok(rest)
    }

    /// No writer of the range goes on, and nobody sets another mark.
    async fn stop_writers(&self, job: &Move, limit: Instant) -> Result<Vec<Mark>> {
        let sides = self.sides(job, Some(limit))?;
        let mut source = sides.source.writer(limit).await?;
        fences::freeze(&mut source, job).await?;
        drop(source); // the only one that writes, on SQLite
        self.passed(Step::Frozen)?;
        let mut source = sides.source.reader(limit).await?;
        let rest = marks::first(&mut source, job.range, REST).await?;
        match rest.len() < REST {
            true => Ok(rest),
            false => Err(Error::Busy(format!(
                "{REST} conversations and users were written to since the last round"
            ))),
        }
    }

    /// No reader of the range is answered by the source.
    async fn give_up(&self, job: &Move, limit: Instant) -> Result<()> {
        let sides = self.sides(job, Some(limit))?;
        let mut source = sides.source.writer(limit).await?;
        fences::give_up(&mut source, job).await?;
        drop(source);
        self.passed(Step::GivenUp)
    }

    /// Compares entities that nobody writes to: what never stood still before as a whole, the others by what was changed last. Says how
    /// many.
    async fn compare_frozen(
        &self,
        sides: &Sides<'_>,
        (restless, touched): (BTreeSet<Entity>, BTreeSet<Entity>),
    ) -> Result<usize> {
        let both = async || {
            let (source, target) = (sides.source, sides.target);
            try_join(
                source.reader(sides.deadline()),
                target.reader(sides.deadline()),
            )
            .await
        };
        let (both, rows) = (&both, COMPARED.1);
        let as_whole = restless.iter().map(|entity| async move {
            let (mut source, mut target) = both().await?;
            compare::entity((&mut source, &mut target), entity, rows.0).await
        });
        let parts = in_parts(&touched);
        let in_parts = parts.iter().map(|(owner, entities)| async move {
            let (mut source, mut target) = both().await?;
            compare::latest((&mut source, &mut target), *owner, entities, rows).await
        });
        let as_whole = stream::iter(as_whole)
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>();
        let in_parts = stream::iter(in_parts)
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>();
        let (as_whole, in_parts) = try_join(as_whole, in_parts).await?;
        for found in as_whole.iter().chain(&in_parts) {
            self.require_same(found)?;
        }
        Ok(restless.len() + touched.len())
    }
}
