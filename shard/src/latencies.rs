//! How long callers of a shard wait, lately: what a move has to give way to.
//!
//! A ring of the latest calls. Each place is one number, so a call costs an addition and a store, and nobody waits for anybody.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many calls are remembered, and for how long they count.
const CALLS: usize = 1024;
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer calls than this say nothing about the slowest of a hundred.
const CALLS_MIN: usize = 100;

/// The latest calls of one shard.
#[derive(Debug)]
pub(crate) struct Latencies {
    origin: Instant,
    /// Milliseconds since the origin (plus one), then microseconds that the call took, 32 bits each; 0 where there was no call yet.
    calls: Box<[AtomicU64]>,
    next: AtomicUsize,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            calls: (0..CALLS).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicUsize::new(0),
        }
    }
}

impl Latencies {
    /// A call that began then is over.
    pub(crate) fn record(&self, begun: Instant) {
        self.note(Instant::now(), begun.elapsed());
    }

    fn note(&self, now: Instant, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let place = self.next.fetch_add(1, Ordering::Relaxed) % CALLS;
        let call = (self.at(now) << 32) | u64::from(micros);
        self.calls[place].store(call, Ordering::Relaxed);
    }

    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1) & u64::from(u32::MAX)
    }

    /// The 99 % quantile of the last ten seconds; none where there were few calls.
    pub(crate) fn p99(&self) -> Option<Duration> {
        self.p99_at(Instant::now())
    }

    fn p99_at(&self, now: Instant) -> Option<Duration> {
        let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
        let oldest = self.at(now).saturating_sub(window);
        let calls = self.calls.iter().map(|call| call.load(Ordering::Relaxed));
        let lately = calls.filter(|call| *call != 0 && (call >> 32) >= oldest);
        let mut micros: Vec<u64> = lately.map(|call| call & u64::from(u32::MAX)).collect();
        if micros.len() < CALLS_MIN {
            return None;
        }
        let at = micros.len() * 99 / 100;
        let (_, p99, _) = micros.select_nth_unstable(at);
        Some(Duration::from_micros(*p99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_hundred_lately() {
        let latencies = Latencies::default();
        let start = Instant::now();
        assert_eq!(latencies.p99(), None);
        for call in 0..99 {
            latencies.note(start, Duration::from_millis(call));
        }
        assert_eq!(latencies.p99_at(start), None, "too few");
        latencies.note(start, Duration::from_secs(1));
        assert_eq!(latencies.p99_at(start), Some(Duration::from_secs(1)));
        for _ in 0..CALLS {
            latencies.note(start, Duration::from_millis(3));
        }
        assert_eq!(latencies.p99_at(start), Some(Duration::from_millis(3)));
        assert_eq!(latencies.p99_at(start + 2 * WINDOW), None, "long ago");
    }
}
