//! The jobs of a running service: archive, erase, collect, by the clock of `archive.time_zone`.
//!
//! Every node runs the schedule; the lease of a shard's ranges decides which of them does the work, and the others find it
//! taken or done.

use std::str::FromStr as _;
use std::time::Duration;

use backscroll_shard::model::Timestamp;
use backscroll_shard::tasks::TaskGroup;
use chrono::{DateTime, NaiveDateTime, Utc};
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::{ArchiveJobs, Order, Progress, ShardOutcome};

/// How often the gauges are set.
const MEASURE: Duration = Duration::from_secs(60);

/// When the schedule is due after `now`, by the clock of `zone`. An hour that the clock skips is made up for at its end,
/// and one that it repeats counts once.
#[must_use]
pub fn next_after(schedule: &cron::Schedule, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let now = jiff::Timestamp::from_millisecond(now.0).ok()?;
    // The crate's schedules are about wall clocks; UTC stands in for a clock without a zone.
    let civil = now.to_zoned(zone.clone()).datetime();
    let text = civil.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let wall: DateTime<Utc> = NaiveDateTime::from_str(&text).ok()?.and_utc();
    let mut later = schedule.after(&wall);
    loop {
        let next = later.next()?.naive_utc().to_string().replace(' ', "T");
        let next: jiff::civil::DateTime = next.parse().ok()?;
        let next = zone.to_timestamp(next).ok()?;
        if next > now {
            return Some(Timestamp(next.as_millisecond()));
        }
    }
}

/// Starts what a running service does by itself until `stop`: it runs the jobs whenever they are due, and sets the gauges.
/// The job that is under way then has to stop by [`ArchiveJobs::stopped_by`]; another one goes on from there.
pub fn start(archive: &ArchiveJobs, tasks: &TaskGroup, stop: &CancellationToken) {
    let (measured, stopping) = (archive.clone(), stop.clone());
    tasks.supervise("archive-gauges", stop, move || {
        measure(measured.clone(), stopping.clone())
    });
    let (scheduled, stopping) = (archive.clone(), stop.clone());
    tasks.supervise("archive-schedule", stop, move || {
        run_when_due(scheduled.clone(), stopping.clone())
    });
}

async fn measure(archive: ArchiveJobs, stop: CancellationToken) {
    let measuring = async {
        loop {
            archive.measure().await;
            tokio::time::sleep(MEASURE).await;
        }
    };
    stop.run_until_cancelled(measuring).await;
}

async fn run_when_due(archive: ArchiveJobs, stop: CancellationToken) {
    let schedule = cron::Schedule::from_str(&archive.settings.schedule).ok();
    let zone = archive.settings.zone();
    loop {
        let now = Timestamp::now();
        let Some(next) = schedule.as_ref().and_then(|it| next_after(it, &zone, now)) else {
            return stop.cancelled().await;
        };
        let wait = u64::try_from(next.0 - now.0).unwrap_or(0);
        let due = tokio::time::sleep(Duration::from_millis(wait));
        if stop.run_until_cancelled(due).await.is_none() {
            return;
        }
        on_a_thread(&archive).await;
    }
}

/// Jobs have a thread of their own while they run: what they do between two waits never holds up requests.
async fn on_a_thread(archive: &ArchiveJobs) {
    let archive = archive.clone();
    let runtime = tokio::runtime::Handle::current();
    let jobs = move || runtime.block_on(all_jobs(&archive));
    if let Err(error) = tokio::task::spawn_blocking(jobs).await {
        tracing::error!(%error, "the archive's jobs ended unexpectedly; they are tried again when they are due next");
    }
}

async fn all_jobs(archive: &ArchiveJobs) {
    let order = Order {
        actor: "schedule".into(),
        reason: "due".into(),
        shard: None,
    };
    let progress = Progress::default();
    let run = async {
        let cutoff = archive.cutoff(archive.now(&order).await?);
        archive.run(&order, cutoff, &progress).await
    };
    match run.await {
        Ok(outcomes) => tell("run", &outcomes),
        Err(error) => tracing::warn!(%error, "nothing was archived"),
    }
    match archive.erase(&order, &progress).await {
        Ok(outcomes) => tell("erase", &outcomes),
        Err(error) => tracing::warn!(%error, "nothing was erased"),
    }
    match archive.collect(&order, false).await {
        Ok(outcomes) => tell("gc", &outcomes),
        Err(error) => tracing::warn!(%error, "no object was collected"),
    }
}

fn tell<T: serde::Serialize>(job: &str, outcomes: &[ShardOutcome<T>]) {
    for outcome in outcomes.iter().filter(|outcome| outcome.error.is_none()) {
        let figures = serde_json::to_string(&outcome.figures).unwrap_or_default();
        tracing::info!(job, shard = %outcome.shard, figures, "an archive job is done");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn the_clock_is_the_configured_zones() {
        let nightly = cron::Schedule::from_str("0 15 3 * * *").unwrap();
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let next = |now: &str| next_after(&nightly, &berlin, at(now));
        assert_eq!(
            next("2026-01-10T00:00:00Z"),
            Some(at("2026-01-10T02:15:00Z"))
        );
        assert_eq!(
            next("2026-07-10T02:00:00Z"),
            Some(at("2026-07-11T01:15:00Z"))
        );
        assert_eq!(
            next_after(&nightly, &TimeZone::UTC, at("2026-07-10T03:15:00Z")),
            Some(at("2026-07-11T03:15:00Z"))
        );
    }

    #[test]
    fn an_hour_that_is_skipped_or_repeated_counts_once() {
        let half_past_two = cron::Schedule::from_str("0 30 2 * * *").unwrap();
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let mut now = at("2026-03-28T12:00:00Z");
        let mut times = Vec::new();
        for _ in 0..2 {
            now = next_after(&half_past_two, &berlin, now).unwrap();
            times.push(now);
        }
        assert_eq!(
            times,
            [at("2026-03-29T01:30:00Z"), at("2026-03-30T00:30:00Z")]
        );
        now = at("2026-10-24T12:00:00Z");
        let first = next_after(&half_past_two, &berlin, now).unwrap();
        let second = next_after(&half_past_two, &berlin, first).unwrap();
        assert_eq!(
            [first, second],
            [at("2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z")]
        );
    }
}
