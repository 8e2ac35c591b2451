//! How fast a runner goes on: pauses between its units of work, when it looks for brakes, and when it tells of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::brakes::millis;
use super::figures::Figures;
use super::reason::Reason;
use super::{Sides, serving};
use crate::error::Result;

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
    pub(super) begun: OnceLock<Instant>,
    rows: AtomicU64,
    waited_ms: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
pub(super) struct Told {
    /// When brakes were looked for, and whether one is on.
    looked: Option<Instant>,
    pub(super) is_braked: bool,
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
    pub(super) fn figures(&self, freeze: Duration) -> Figures {
        let rows = self.rows.load(Ordering::Relaxed);
        let waited = Duration::from_millis(self.waited_ms.load(Ordering::Relaxed));
        let took = self.begun.get().filter(|_| rows >= MEASURED);
        let took = took.map(|begun| begun.elapsed().saturating_sub(waited));
        Figures {
            rows_per_second: took.map(|took| (rows as f64 / took.as_secs_f64().max(0.001)) as u64),
            freeze_ms: millis(freeze),
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        // Nothing panics half-way through a change.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether brakes are to be looked for, and else whether one is on.
    pub(super) fn look(&self) -> Result<Duration, bool> {
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
    pub(super) fn is_news(&self, reason: Option<&Reason>) -> bool {
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
