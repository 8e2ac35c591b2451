//! When a lane waits a little for more work before it begins a transaction.
//!
//! A commit costs the database about the same for one message as for ten. Where several messages come within `write.gather`, a lane
//! waits for them, until [`ENOUGH`] are there; where fewer come it begins at once, so that a send in quiet times waits for nothing, and
//! neither does one that finds enough waiting. A wait in which nothing came, because the only sender waited for its answer, is followed
//! by [`REST`] batches without one.
//!
//! Nothing is lost in a crash that was not lost before: what waits has no answer yet (INV-ACK).

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Job;

/// How many messages are worth no more waiting.
const ENOUGH: usize = 10;
/// How many batches after a wait in vain begin at once.
const REST: u32 = 16;
/// Below this a timer does not wake a task more precisely.
const SHORTEST: Duration = Duration::from_millis(1);
/// How much of what was counted before counts beside a new batch.
const KEPT: f64 = 0.9;
/// A longer quiet time counts as this.
const LONGEST: Duration = Duration::from_secs(1);

/// A lane's decision, from how many messages came lately.
#[derive(Debug)]
pub(super) struct Gathering {
    within: Duration,
    /// Messages of the latest batches, older ones less.
    messages: f64,
    /// The seconds in which they came.
    seconds: f64,
    /// When the batch before was taken.
    taken: Instant,
    /// How many batches begin at once.
    rest: u32,
}

impl Gathering {
    /// Waits `within` at most; never when it is zero.
    pub(super) fn new(within: Duration, now: Instant) -> Self {
        Self {
            within,
            messages: 0.0,
            seconds: LONGEST.as_secs_f64(),
            taken: now,
            rest: 0,
        }
    }

    /// `first` and what else is to be done together with it, about `most` messages.
    pub(super) async fn batch(
        &mut self,
        first: Job,
        jobs: &mut mpsc::Receiver<Job>,
        most: usize,
    ) -> Vec<Job> {
        let mut messages = first.work.weight();
        let mut batch = vec![first];
        let mut take_waiting = || {
            while messages < most
                && let Ok(job) = jobs.try_recv()
            {
                messages += job.work.weight();
                batch.push(job);
            }
            messages
        };
        let waiting = take_waiting();
        let pause = self.pause(waiting);
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
            take_waiting();
        }
        self.took(messages, pause.map(|_| waiting), Instant::now());
        batch
    }

    /// How long a lane in which so many messages wait leaves time for more.
    fn pause(&self, waiting: usize) -> Option<Duration> {
        let missing = ENOUGH.checked_sub(waiting).filter(|missing| *missing > 0)?;
        let rate = self.messages / self.seconds;
        if self.rest > 0 || rate * self.within.as_secs_f64() < 1.0 {
            return None;
        }
        let coming = Duration::from_secs_f64(count(missing) / rate);
        Some(coming.min(self.within)).filter(|pause| *pause >= SHORTEST)
    }

    /// A batch of `messages` was taken at `now`; before the pause, if there was one, `waiting` were there.
    fn took(&mut self, messages: usize, waiting: Option<usize>, now: Instant) {
        let passed = now.saturating_duration_since(self.taken).min(LONGEST);
        self.messages = self.messages * KEPT + count(messages);
        self.seconds = self.seconds * KEPT + passed.as_secs_f64();
        self.taken = now;
        self.rest = match waiting {
            Some(waiting) if waiting == messages => REST,
            _ => self.rest.saturating_sub(1),
        };
    }
}

#[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^52")]
fn count(messages: usize) -> f64 {
    messages as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(10);

    /// A lane that took a batch of `messages` every `every`, a hundred times, without a pause.
    fn steady(messages: usize, every: Duration) -> (Gathering, Instant) {
        let mut now = Instant::now();
        let mut gathering = Gathering::new(WITHIN, now);
        for _ in 0..100 {
            now += every;
            gathering.took(messages, None, now);
        }
        (gathering, now)
    }

    #[test]
    fn a_send_in_quiet_times_waits_for_nothing() {
        assert_eq!(steady(1, Duration::from_millis(11)).0.pause(1), None);
        let (mut gathering, now) = steady(1, Duration::from_secs(60));
        assert_eq!(gathering.pause(1), None);
        // One burst after a minute's rest says nothing about what comes next.
        gathering.took(200, None, now + Duration::from_secs(60));
        assert_eq!(gathering.pause(1), None);
    }

    #[test]
    fn where_several_come_within_the_time_a_lane_waits_for_them() {
        let (gathering, _) = steady(1, Duration::from_millis(4));
        assert_eq!(gathering.pause(1), Some(WITHIN));
        let (gathering, _) = steady(10, Duration::from_millis(4));
        let pause = gathering.pause(1).expect("2,500 come in a second");
        assert!(pause < Duration::from_millis(4), "{pause:?}");
    }

    #[test]
    fn enough_is_not_waited_for() {
        let (gathering, _) = steady(1, Duration::from_millis(4));
        assert_eq!(gathering.pause(ENOUGH), None);
        assert_eq!(gathering.pause(500), None);
        let (gathering, _) = steady(500, Duration::from_millis(10));
        assert_eq!(gathering.pause(1), None, "a timer is too coarse for it");
    }

    #[test]
    fn a_wait_in_vain_is_not_repeated_at_once() {
        let (mut gathering, now) = steady(1, Duration::from_millis(2));
        gathering.took(1, Some(1), now + Duration::from_millis(2));
        for batch in 1..=u64::from(REST) {
            assert_eq!(gathering.pause(1), None);
            gathering.took(1, None, now + Duration::from_millis(2 + 2 * batch));
        }
        assert!(gathering.pause(1).is_some());
    }

    #[test]
    fn nobody_waits_where_the_setting_is_zero() {
        let mut gathering = Gathering::new(Duration::ZERO, Instant::now());
        gathering.took(500, None, Instant::now() + Duration::from_millis(1));
        assert_eq!(gathering.pause(1), None);
    }
}
