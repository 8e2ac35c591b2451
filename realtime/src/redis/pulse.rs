//! The proof that this process receives pushes.
//!
//! An open socket proves nothing. The process publishes canaries on a channel of its own, on the same path as every push, and
//! receives them on the same path as every push. A canary carries its sender's age, so that its return also gives the time of
//! a round trip.

use crate::metrics;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time of the last proof.
pub(super) struct Pulse {
    origin: String,
    opened: Instant,
    /// When the latest canary that came back was sent, in microseconds after `opened`.
    proven: AtomicU64,
}

impl Pulse {
    pub(super) fn new(origin: String) -> Self {
        Self {
            origin,
            opened: Instant::now(),
            proven: AtomicU64::new(0),
        }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// How long ago the latest canary that came back was sent.
    pub(super) fn silence(&self) -> Duration {
        let proven = self.proven.load(Ordering::Relaxed);
        Duration::from_micros(self.age().saturating_sub(proven))
    }

    /// The payload of a canary that is sent now.
    pub(super) fn canary(&self) -> Vec<u8> {
        super::wire::signed(&self.origin, self.age().to_string().as_bytes())
    }

    /// Takes the payload of a channel that is no topic's; none when it is not a canary of this process.
    pub(super) fn receive(&self, origin: &str, rest: &[u8]) -> Option<()> {
        let sent: u64 = std::str::from_utf8(rest).ok()?.parse().ok()?;
        let age = self.age();
        if origin != self.origin || sent > age {
            return None;
        }
        self.proven.fetch_max(sent, Ordering::Relaxed);
        let round_trip = Duration::from_micros(age - sent);
        metrics::BUS_ROUND_TRIP_SECONDS.record(round_trip.as_secs_f64());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire;
    use super::*;

    #[test]
    fn only_a_process_s_own_canaries_prove_anything() {
        let pulse = Pulse::new("me".to_owned());
        std::thread::sleep(Duration::from_millis(2));
        let canary = pulse.canary();
        let (origin, rest) = wire::origin(&canary).unwrap();
        assert!(pulse.receive("other", rest).is_none());
        assert!(pulse.receive("me", b"x").is_none());
        assert!(pulse.receive("me", b"99999999999").is_none());
        assert!(pulse.proven.load(Ordering::Relaxed) == 0);

        pulse.receive(origin, rest).unwrap();
        let proven = pulse.proven.load(Ordering::Relaxed);
        assert!(proven >= 2000);
        pulse.receive("me", b"1").unwrap(); // an older one that was late
        assert_eq!(pulse.proven.load(Ordering::Relaxed), proven);
    }
}
