//! Drives an operation over many connections: as fast as answers come back (closed loop), or at a given rate (open
//! loop), and measures each.
//!
//! Every worker is a task of the one thread that generates load and keeps its own histogram; nothing is shared while
//! the clock runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::pace::Schedule;

/// How long a phase may take beyond its time before the benchmark gives up: longer than any request's own deadline.
const GRACE: Duration = Duration::from_secs(60);
/// Significant decimal digits of a latency.
const PRECISION: u8 = 3;

/// What one operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// The system refused, with this HTTP status.
    Refused(u16),
}

/// Something a worker does again and again on a connection of its own.
pub trait Operation: Send + 'static {
    /// Does it once.
    ///
    /// # Errors
    /// When the connection or the answer is broken: that ends the benchmark.
    fn perform(&mut self) -> impl Future<Output = Result<Outcome>> + Send;
}

/// What a phase measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// How long it ran.
    pub duration: Duration,
    /// Latencies of what was done, in microseconds.
    pub latency: Histogram<u64>,
    /// How many were refused, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Latencies of what was refused, in microseconds.
    pub refused_latency: Histogram<u64>,
    /// How many were under way when a closed loop ended: each was finished, but counts nowhere else.
    pub under_way: u64,
}

impl Measured {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never: the precision is a sound one.
    pub fn new() -> Result<Self> {
        Ok(Self {
            duration: Duration::ZERO,
            latency: Histogram::new(PRECISION)?,
            refused: BTreeMap::new(),
            refused_latency: Histogram::new(PRECISION)?,
            under_way: 0,
        })
    }

    fn record(&mut self, outcome: Outcome, latency: Duration) -> Result<()> {
        let micros = latency.as_micros() as u64;
        match outcome {
            Outcome::Done => self.latency.record(micros)?,
            Outcome::Refused(status) => {
                *self.refused.entry(status).or_default() += 1;
                self.refused_latency.record(micros)?;
            }
        }
        Ok(())
    }

    /// Adds what another worker of the same phase, or another phase, measured. Durations stay.
    ///
    /// # Errors
    /// Never for histograms of this module, which grow as needed.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.latency.add(&other.latency)?;
        self.refused_latency.add(&other.refused_latency)?;
        self.under_way += other.under_way;
        for (status, count) in &other.refused {
            *self.refused.entry(*status).or_default() += count;
        }
        Ok(())
    }

    /// How many were done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.latency.len()
    }

    /// How many were done in a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.done() as f64 / self.duration.as_secs_f64()
    }

    /// How many were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Every worker does its operation again `pause` after it was done, for `duration`. What is under way at the end is
/// finished, but not counted. The pause is not part of a latency.
///
/// # Errors
/// When an operation fails, or does not end.
pub async fn closed_loop<O: Operation>(
    operations: &mut Vec<O>,
    duration: Duration,
    pause: Duration,
) -> Result<Measured> {
    let mut workers = JoinSet::new();
    let start = Instant::now();
    let end = start + duration;
    for mut operation in operations.drain(..) {
        workers.spawn(async move {
            let mut measured = Measured::new()?;
            let mut begin = Instant::now();
            while begin < end {
                let outcome = operation.perform().await?;
                let now = Instant::now();
                if now <= end {
                    measured.record(outcome, now - begin)?;
                } else {
                    measured.under_way += 1;
                }
                begin = now;
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                    begin = Instant::now();
                }
            }
            anyhow::Ok((operation, measured))
        });
    }
    let mut measured = collect(workers, operations, duration).await?;
    measured.duration = duration;
    Ok(measured)
}

/// Starts `rate` operations a second for `duration`, whether or not the answers keep up; latencies count from when
/// each was meant to start. The duration measured is until the last answer.
///
/// # Errors
/// When an operation fails, or does not end.
pub async fn open_loop<O: Operation>(
    operations: &mut Vec<O>,
    rate: f64,
    duration: Duration,
) -> Result<Measured> {
    let schedule = Schedule::new();
    let count = operations.len();
    let mut workers = JoinSet::new();
    for mut operation in operations.drain(..) {
        let starts = schedule.clone();
        workers.spawn(async move {
            let mut measured = Measured::new()?;
            while let Some(intended) = starts.next().await {
                let outcome = operation.perform().await?;
                measured.record(outcome, intended.elapsed())?;
            }
            anyhow::Ok((operation, measured))
        });
    }
    let start = Instant::now();
    let (mut measured, _issued) = tokio::try_join!(
        collect(workers, operations, duration),
        schedule.run(rate, duration, count)
    )?;
    measured.duration = start.elapsed();
    Ok(measured)
}

/// Waits for the workers and puts their operations back.
async fn collect<O: Operation>(
    mut workers: JoinSet<Result<(O, Measured)>>,
    operations: &mut Vec<O>,
    duration: Duration,
) -> Result<Measured> {
    let mut total = Measured::new()?;
    let all = async {
        while let Some(worker) = workers.join_next().await {
            let (operation, measured) = worker.context("a worker panicked")??;
            total.add(&measured)?;
            operations.push(operation);
        }
        anyhow::Ok(())
    };
    let patience = duration + GRACE;
    timeout(patience, all)
        .await
        .with_context(|| format!("operations still under way after {patience:?}"))??;
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes 2 ms, and refuses every tenth.
    struct Slow(u64);

    impl Operation for Slow {
        async fn perform(&mut self) -> Result<Outcome> {
            self.0 += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(if self.0.is_multiple_of(10) {
                Outcome::Refused(503)
            } else {
                Outcome::Done
            })
        }
    }

    #[tokio::test]
    async fn a_closed_loop_keeps_every_worker_busy() {
        let mut operations: Vec<Slow> = (0..4).map(|_| Slow(0)).collect();
        let measured = closed_loop(&mut operations, Duration::from_millis(200), Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(operations.len(), 4);
        let performed: u64 = operations.iter().map(|o| o.0).sum();
        let counted = measured.done() + measured.refused();
        assert_eq!(performed, counted + measured.under_way);
        assert!(measured.under_way <= 4);
        assert!(counted > 4 * 200 / 10 && counted <= 4 * 100, "{counted}");
        assert!(measured.refused[&503] * 8 <= measured.done());
        assert!(measured.latency.value_at_quantile(0.5) >= 2_000);
    }

    #[tokio::test]
    async fn an_open_loop_that_does_not_keep_up_shows_the_wait() {
        // 1,000 a second are asked of a worker that can do 500 at best: the last waits for half of the time.
        let measured = open_loop(&mut vec![Slow(0)], 1_000.0, Duration::from_millis(200))
            .await
            .unwrap();
        assert_eq!(measured.done() + measured.refused(), 200);
        assert!(
            measured.latency.max() > 180_000,
            "{}",
            measured.latency.max()
        );
        assert!(measured.duration > Duration::from_millis(380));
    }

    #[tokio::test]
    async fn a_failure_ends_the_phase() {
        struct Broken;
        impl Operation for Broken {
            async fn perform(&mut self) -> Result<Outcome> {
                anyhow::bail!("broken")
            }
        }
        assert!(
            closed_loop(&mut vec![Broken], Duration::from_secs(5), Duration::ZERO)
                .await
                .is_err()
        );
    }
}
