//! What a runner puts down for people and plans: what it waits for, the brake that is on, and how fast it was.

use std::time::{Duration, Instant};

use super::brakes::{self, millis};
use super::figures;
use super::job::Move;
use super::reason::Reason;
use super::run::Runner;
use crate::error::Result;
use crate::metrics;

impl Runner<'_> {
    /// Puts down how fast the move was, for the plans of others.
    pub(super) async fn measure(&self, job: &Move, freeze: Duration) -> Result<()> {
        let figures = self.pace.figures(freeze);
        let sides = self.sides(job, None)?;
        sides
            .in_directory(async |it| figures::measure(it, job.id, figures).await)
            .await
    }

    /// Whether a brake is on; looked for now and then.
    pub(super) async fn is_braked(&self, job: &Move) -> Result<bool> {
        let braked = match self.pace.look() {
            Err(is_braked) => return Ok(is_braked),
            Ok(braked) => braked,
        };
        let sides = self.sides(job, None)?;
        let working = self.pace.begun.get().map(Instant::elapsed);
        let reason = brakes::look(&sides, working.unwrap_or_default()).await;
        let was_braked = std::mem::replace(&mut self.pace.told().is_braked, reason.is_some());
        if let Some(reason) = reason {
            let seconds = metrics::MOVE_BRAKED_SECONDS.with([reason.name()]);
            seconds.increment(braked.as_secs());
            self.tell(job, Some(reason)).await?;
            return Ok(true);
        }
        if was_braked {
            self.tell(job, None).await?;
        }
        Ok(false)
    }

    /// Puts down what the runner waits for or is at; figures of the same reason once a second at most.
    pub(super) async fn tell(&self, job: &Move, reason: Option<Reason>) -> Result<()> {
        if !self.pace.is_news(reason.as_ref()) {
            return Ok(());
        }
        let sides = self.sides(job, None)?;
        sides
            .in_directory(async |it| figures::tell(it, job, reason.as_ref()).await)
            .await
    }

    /// What is left to copy before a freeze.
    pub(super) async fn tell_rest(
        &self,
        job: &Move,
        marked: u64,
        estimate: Duration,
    ) -> Result<()> {
        let reason = Reason::CatchingUp {
            marked,
            estimate_ms: Some(millis(estimate)),
            budget_ms: millis(self.settings().freeze_budget.0),
        };
        self.tell(job, Some(reason)).await
    }
}
