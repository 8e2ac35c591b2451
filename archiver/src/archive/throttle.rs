//! Waiting for the database to be less busy: archiving is never urgent, answering people is.

use std::time::{Duration, Instant};

use backscroll_shard::archive::{Lease, lease_expiry, threads_running};
use backscroll_shard::error::Result;
use backscroll_shard::node::Shard;

use super::{Progress, RENEWAL};
use crate::settings::ArchiveSettings;

/// How often the database is asked how busy it is.
const CHECK: Duration = Duration::from_millis(250);

/// Slows a job down to what its shard can bear.
pub(super) struct Throttle<'a> {
    shard: &'a Shard,
    lease: &'a Lease,
    settings: &'a ArchiveSettings,
    progress: &'a Progress,
    started: Instant,
    messages: u64,
    checked: Instant,
}

impl<'a> Throttle<'a> {
    pub(super) fn new(
        shard: &'a Shard,
        lease: &'a Lease,
        settings: &'a ArchiveSettings,
        progress: &'a Progress,
    ) -> Self {
        let now = Instant::now();
        Self {
            shard,
            lease,
            settings,
            progress,
            started: now,
            messages: 0,
            checked: now,
        }
    }

    /// Waits until the job may go on, after `messages` more.
    pub(super) async fn pause(&mut self, messages: u64) {
        self.messages += messages;
        if self.settings.rate > 0 {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let due = self.messages as f64 / f64::from(self.settings.rate);
            tokio::time::sleep_until((self.started + Duration::from_secs_f64(due)).into()).await;
        }
        if self.checked.elapsed() < CHECK {
            return;
        }
        loop {
            // A database that does not answer is found out by the next statement of the job itself.
            let reason = self.busy().await.unwrap_or(None);
            self.checked = Instant::now();
            self.progress
                .update(|progress| progress.waiting.clone_from(&reason));
            let Some(reason) = reason else { return };
            tracing::debug!(shard = %self.shard.name(), reason, "an archive job waits");
            metrics::counter!("backscroll_archive_throttled_seconds_total", "shard" => self.shard.name().to_string())
                .increment(1);
            tokio::time::sleep(RENEWAL).await;
        }
    }

    /// Why the job should wait, if it should.
    async fn busy(&self) -> Result<Option<String>> {
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
