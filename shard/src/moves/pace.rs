//! How fast a runner goes on: what it has done, and how long it has waited.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::job::{self, Figures, Move};
use super::run::Runner;
use crate::error::Result;

/// A copy of fewer rows says little about how fast copies are.
const MEASURED: u64 = 1_000;

/// One runner's pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    begun: OnceLock<Instant>,
    rows: AtomicU64,
    waited_ms: AtomicU64,
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
}

impl Runner<'_> {
    /// Puts down how fast the move was, for the plans of others.
    pub(super) async fn measure(&self, job: &Move, freeze: Duration) -> Result<()> {
        let figures = self.pace.figures(freeze);
        let sides = self.sides(job, None)?;
        sides
            .in_directory(async |it| job::measure(it, job.id, figures).await)
            .await
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
