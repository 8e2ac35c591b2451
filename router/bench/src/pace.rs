//! An open-loop clock: says when each request was meant to start, whether or not the system keeps up.
//!
//! A closed loop asks less of a system that slows down, and so hides the wait ("coordinated omission"). Here the
//! intended times are fixed beforehand, `1/rate` apart; a request that finds every connection busy waits in the queue,
//! and its latency counts from when it was meant to start.
//!
//! The clock is a thread that sleeps, since the runtime's own timers are no finer than a millisecond.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// How often the clock looks what is due. Latencies include up to this much of the clock's own delay.
const TICK: Duration = Duration::from_micros(200);

/// A schedule that workers take their intended start times from. Its queue is at most as long as the schedule.
#[derive(Clone)]
pub struct Schedule {
    due: Arc<Due>,
}

struct Due {
    times: Mutex<VecDeque<Instant>>,
    /// One permit for each of `times`; in the end one more for each worker.
    permits: Semaphore,
}

impl Schedule {
    /// An empty schedule; [`Schedule::run`] fills it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            due: Arc::new(Due {
                times: Mutex::default(),
                permits: Semaphore::new(0),
            }),
        }
    }

    /// Waits for the next intended start; `None` when the schedule is over.
    pub async fn next(&self) -> Option<Instant> {
        self.due.permits.acquire().await.ok()?.forget();
        self.due
            .times
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Issues `rate` starts a second, evenly, from now on for `duration`, and then the end for each of `workers`; stops
    /// early when no worker is left. Returns how many starts there were.
    ///
    /// # Errors
    /// When the clock cannot run.
    pub async fn run(self, rate: f64, duration: Duration, workers: usize) -> Result<u64> {
        spawn_blocking(move || self.tick(rate, duration, workers))
            .await
            .context("the clock stopped")
    }

    fn tick(&self, rate: f64, duration: Duration, workers: usize) -> u64 {
        let start = Instant::now();
        let total = (rate * duration.as_secs_f64()) as u64;
        let mut issued = 0;
        while issued < total && Arc::strong_count(&self.due) > 1 {
            std::thread::sleep(TICK);
            let due = due_after(start.elapsed(), rate).min(total);
            self.issue((issued..due).map(|n| start + Duration::from_secs_f64(n as f64 / rate)));
            issued = due;
        }
        self.due.permits.add_permits(workers);
        issued
    }

    fn issue(&self, times: impl Iterator<Item = Instant>) {
        let mut queue = self
            .due
            .times
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = queue.len();
        queue.extend(times);
        let added = queue.len() - before;
        drop(queue);
        self.due.permits.add_permits(added);
    }
}

/// How many starts are due when so much time has passed: the first is at once, the next when `1/rate` has passed.
fn due_after(elapsed: Duration, rate: f64) -> u64 {
    (elapsed.as_secs_f64() * rate) as u64 + 1
}

impl Default for Schedule {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn a_start_is_due_at_its_time_and_no_later() {
        let due = |millis| due_after(Duration::from_millis(millis), 10.0);
        assert_eq!([0, 99, 100, 199, 200].map(due), [1, 1, 2, 2, 3]);
    }

    #[tokio::test]
    async fn every_start_is_issued_on_time_and_then_the_end() {
        let schedule = Schedule::new();
        let begin = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..3 {
            let schedule = schedule.clone();
            workers.spawn(async move {
                let mut taken = Vec::new();
                while let Some(intended) = schedule.next().await {
                    assert!(Instant::now() >= intended, "nothing starts early");
                    taken.push(intended);
                }
                taken
            });
        }
        let total = schedule
            .run(5_000.0, Duration::from_millis(100), 3)
            .await
            .unwrap();
        assert_eq!(total, 500);
        assert!(begin.elapsed() >= Duration::from_millis(99));
        let mut taken = workers.join_all().await.concat();
        taken.sort();
        assert_eq!(taken.len(), 500);
        let spread = taken[499] - taken[0];
        assert!(
            (Duration::from_micros(99_700)..Duration::from_micros(99_900)).contains(&spread),
            "{spread:?}"
        );
    }
}
