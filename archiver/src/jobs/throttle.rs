//! Waiting for the database to be less busy: archiving is never urgent, answering people is.
//!
//! While nobody else uses the shard's database a job works as fast as it can. While somebody does ([`super::others`]) it
//! works in small units and rests after each, so long that it has worked `archive.busy_share` percent of the time. It
//! never waits for them to leave: that share is what it gets at least. Beyond that it waits while the database is
//! overloaded, by the limits of the settings.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backscroll_shard::archive::{Lease, lease_expiry, threads_running};
use backscroll_shard::error::Result;
use backscroll_shard::node::Shard;

use super::others::{Counts, Others};
use super::{Progress, RENEWAL};
use crate::metrics;
use crate::settings::ArchiveSettings;

/// How often the database is asked how busy it is, and with whom.
const CHECK: Duration = Duration::from_millis(100);

/// What part of the usual amount is done at once while others are there.
const SMALL: usize = 20;

/// Longest rest.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Slows a job down to what its shard can bear.
pub(super) struct Throttle<'a> {
    shard: &'a Shard,
    lease: &'a Lease,
    settings: &'a ArchiveSettings,
    pub(super) progress: &'a Progress,
    state: Mutex<State>,
}

struct State {
    checked: Option<Instant>,
    others: Others,
    rested: Duration,
}

/// The pace of one of a job's two streams, reading and deleting: how far it is by `archive.rate`.
pub(super) struct Pace<'a> {
    pub(super) throttle: &'a Throttle<'a>,
    started: Instant,
    messages: u64,
}

impl Pace<'_> {
    /// Waits until the job may go on, after work of `messages` more that began at `begin`.
    pub(super) async fn pause(&mut self, messages: u64, begin: Instant) {
        let throttle = self.throttle;
        let work = begin.elapsed();
        self.messages += messages;
        let rate = throttle.settings.rate;
        if rate > 0 {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let due = self.messages as f64 / f64::from(rate);
            tokio::time::sleep_until((self.started + Duration::from_secs_f64(due)).into()).await;
        }
        if throttle.is_check_due() {
            throttle.check().await;
        }
        let rest = throttle.rest_after(work);
        if !rest.is_zero() {
            throttle.state().rested += rest;
            tokio::time::sleep(rest).await;
        }
    }
}

impl<'a> Throttle<'a> {
    /// `shard` is the job's own handle.
    pub(super) fn new(
        shard: &'a Shard,
        lease: &'a Lease,
        settings: &'a ArchiveSettings,
        progress: &'a Progress,
    ) -> Self {
        Self {
            shard,
            lease,
            settings,
            progress,
            state: Mutex::new(State {
                checked: None,
                others: Others::new(),
                rested: Duration::ZERO,
            }),
        }
    }

    /// The pace of a stream that begins now.
    pub(super) fn pace(&self) -> Pace<'_> {
        Pace {
            throttle: self,
            started: Instant::now(),
            messages: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much to do before the next pause, where `usual` is much enough to be quick.
    pub(super) fn amount(&self, usual: usize) -> usize {
        if self.yields() {
            (usual / SMALL).max(1)
        } else {
            usual
        }
    }

    /// How many such amounts to do at once.
    pub(super) fn at_once(&self, usual: usize) -> usize {
        if self.yields() { 1 } else { usual }
    }

    /// Whether the job makes room for others; it does until it knows that there are none.
    fn yields(&self) -> bool {
        self.settings.busy_share < 100 && self.state().others.are_active() != Some(false)
    }

    /// How long the job has rested for others.
    pub(super) fn rested(&self) -> Duration {
        self.state().rested
    }

    /// How long to rest after so much work.
    fn rest_after(&self, work: Duration) -> Duration {
        if self.yields() {
            rest(work, self.settings.busy_share)
        } else {
            Duration::ZERO
        }
    }

    fn is_check_due(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let is_due = state.checked.is_none_or(|checked| now - checked >= CHECK);
        if is_due {
            state.checked = Some(now);
        }
        is_due
    }

    /// Looks for others, and waits as long as the database is overloaded.
    async fn check(&self) {
        loop {
            // A database that does not answer is found out by the next statement of the job itself.
            let overload = self.overload().await.unwrap_or(None);
            let counts = Counts::of(self.shard).await.ok();
            let courtesy = self.look(counts);
            self.progress
                .update(|progress| progress.waiting = overload.clone().or(courtesy));
            let Some(reason) = overload else { return };
            tracing::debug!(shard = %self.shard.name(), reason, "an archive job waits");
            metrics::THROTTLED_SECONDS
                .with([self.shard.name().to_string()])
                .increment(1);
            tokio::time::sleep(RENEWAL).await;
        }
    }

    /// Takes what was counted, and says for whom the job makes room, if it does.
    fn look(&self, counts: Option<Counts>) -> Option<String> {
        let mut state = self.state();
        let now = Instant::now();
        state.checked = Some(now);
        if let Some(counts) = counts {
            state.others.count(now, counts);
        }
        let share = self.settings.busy_share;
        (state.others.are_active() == Some(true) && share < 100).then(|| {
            format!("others use the database: works {share} % of the time (archive.busy_share)")
        })
    }

    /// Why the job should wait, if it should.
    async fn overload(&self) -> Result<Option<String>> {
        let deadline = Instant::now() + super::STEP;
        let mut connection = self.shard.reader(deadline).await?;
        let asked = Instant::now();
        let renewed = lease_expiry(&mut connection, self.lease).await?;
        let latency = asked.elapsed();
        if latency > self.settings.max_latency.0 {
            return Ok(Some(format!(
                "reading one row took {} ms (archive.max_latency)",
                latency.as_millis()
            )));
        }
        let running = threads_running(&mut connection).await?;
        drop(connection);
        let most = u64::from(self.settings.max_threads_running);
        if let Some(running) = running.filter(|running| *running > most) {
            return Ok(Some(format!(
                "{running} statements are running (archive.max_threads_running)"
            )));
        }
        for replica in self.shard.replicas() {
            // A replica that is down is no reason to wait: it will have to catch up anyway.
            let Ok(mut connection) = replica.reader(deadline).await else {
                continue;
            };
            let Ok(seen) = lease_expiry(&mut connection, self.lease).await else {
                continue;
            };
            let lag = renewed
                .zip(seen)
                .map_or(0, |(renewed, seen)| renewed.0.saturating_sub(seen.0));
            let lag = Duration::from_millis(lag.max(0).cast_unsigned());
            if lag > self.settings.max_replica_lag.0 {
                return Ok(Some(format!(
                    "a replica is {} s behind (archive.max_replica_lag)",
                    lag.as_secs()
                )));
            }
        }
        Ok(None)
    }
}

/// The rest after `work` with which that is `share` percent of both.
fn rest(work: Duration, share: u32) -> Duration {
    let share = share.clamp(1, 100);
    (work * (100 - share) / share).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_its_share_of_the_time() {
        let unit = Duration::from_millis(6);
        assert_eq!(rest(unit, 10), unit * 9);
        assert_eq!(rest(unit, 60), unit * 2 / 3);
        assert_eq!(rest(unit, 100), Duration::ZERO);
        assert_eq!(rest(Duration::from_secs(60), 1), LONGEST_REST);
    }
}
