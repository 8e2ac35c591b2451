//! How fast a runner goes on: pauses between its units of work, brakes, and what it puts down about both.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::brakes::{self, millis};
use super::figures::{self, Figures};
use super::job::Move;
use super::reason::Reason;
use super::run::Runner;
use super::{Sides, serving};
use crate::error::Result;
use crate::metrics;

/// A copy of fewer rows says little about how fast copies are.
const MEASURED: u64 = 1_000;
/// How often a runner looks for brakes, and how often at most it puts new figures of one reason down.
const LOOK: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(1);
/// A pause is slept in parts of this length: a throttle that was changed meanwhile counts.
const SLICE: Duration = Duration::from_millis(500);
/// Longest pause by `rebalance.load`.
const LONGEST: Duration = Duration::from_secs(60);

/// One runner's pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    begun: OnceLock<Instant>,
    rows: AtomicU64,
    waited_ms: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// When brakes were looked for, and whether one is on.
    looked: Option<Instant>,
    is_braked: bool,
    /// What was put down last, and when.
    reason: Option<(Reason, Instant)>,
}

impl Pace {
    /// The copy begins, or goes on.
    pub(super) fn begin(&self) {
        self.begun.get_or_init(Instant::now);
    }

    /// So many rows more were copied.
    pub(super) fn copied(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// The runner has waited for something that is no part of the work.
    pub(super) fn waited(&self, time: Duration) {
        self.waited_ms.fetch_add(millis(time), Ordering::Relaxed);
    }

    /// How fast the move was, at its end.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate"
    )]
    fn figures(&self, freeze: Duration) -> Figures {
        let rows = self.rows.load(Ordering::Relaxed);
        let waited = Duration::from_millis(self.waited_ms.load(Ordering::Relaxed));
        let took = self.begun.get().filter(|_| rows >= MEASURED);
        let took = took.map(|begun| begun.elapsed().saturating_sub(waited));
        Figures {
            rows_per_second: took.map(|took| (rows as f64 / took.as_secs_f64().max(0.001)) as u64),
            freeze_ms: millis(freeze),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Nothing panics half-way through a change.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether brakes are to be looked for, and else whether one is on.
    fn look(&self) -> Result<Duration, bool> {
        let mut told = self.told();
        let since = told.looked.map(|looked| looked.elapsed());
        if since.is_some_and(|since| since < LOOK) {
            return Err(told.is_braked);
        }
        told.looked = Some(Instant::now());
        let was_braked = told.is_braked;
        Ok(since.filter(|_| was_braked).unwrap_or_default())
    }

    /// Whether `reason` is worth putting down.
    fn is_news(&self, reason: Option<&Reason>) -> bool {
        let mut told = self.told();
        let is_news = match (&told.reason, reason) {
            (None, None) => false,
            (Some((was, at)), Some(is)) => {
                was.name() != is.name() || (was != is && at.elapsed() >= TELL)
            }
            _ => true,
        };
        if is_news {
            told.reason = reason.map(|it| (it.clone(), Instant::now()));
        }
        is_news
    }
}

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

impl Sides<'_> {
    /// A pause after work on so many rows that began then, by `rebalance.load` and by the move's throttle; none within a freeze. Gives how
    /// many rows may be worked on at once.
    pub(super) async fn rest(&self, rows: usize, begun: Instant) -> Result<usize> {
        if self.limit.is_some() {
            return Ok(usize::MAX);
        }
        let took = begun.elapsed();
        let load = self.settings.load.clamp(1, 100);
        let by_load = took + (took * (100 - load) / load).min(LONGEST);
        loop {
            let throttle = self.throttle().await?;
            #[expect(clippy::cast_precision_loss, reason = "a time")]
            let by_throttle =
                throttle.map(|most| Duration::from_secs_f64(rows as f64 / most.max(1) as f64));
            let due = by_load.max(by_throttle.unwrap_or_default());
            let left = due.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let most = throttle.and_then(|most| usize::try_from(most.max(1)).ok());
                return Ok(most.unwrap_or(usize::MAX));
            }
            tokio::time::sleep(left.min(SLICE)).await;
        }
    }

    /// How many rows a second the move may work on, as the directory says now.
    async fn throttle(&self) -> Result<Option<u64>> {
        let database = self.router.directory().database();
        let mut connection = database.reader(self.deadline()).await?;
        Ok(serving::read(&mut connection, self.job.id).await?.throttle)
    }
}
