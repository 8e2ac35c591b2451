//! A circuit breaker: after some failures in a row it lets nothing through for a cool-down, then one call that tries, and
//! everything again once one succeeds.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One circuit, of one kind of work.
#[derive(Debug)]
pub(crate) struct Circuit {
    limit: u32,
    cooldown: Duration,
    failures: AtomicU32,
    /// When the next call may try; `None` while closed.
    retry_at: Mutex<Option<Instant>>,
}

impl Circuit {
    /// Closed; it opens after `limit` failures in a row.
    pub(crate) fn new(limit: u32, cooldown: Duration) -> Self {
        Self {
            limit,
            cooldown,
            failures: AtomicU32::new(0),
            retry_at: Mutex::new(None),
        }
    }

    fn has_tripped(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= self.limit
    }

    /// Whether a call may be made; of those after a cool-down, one.
    pub(crate) fn admits(&self) -> bool {
        if !self.has_tripped() {
            return true;
        }
        let now = Instant::now();
        let mut retry_at = self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may_try = retry_at.is_none_or(|at| now >= at);
        if may_try {
            *retry_at = Some(now + self.cooldown);
        }
        may_try
    }

    /// Whether a call would be refused now.
    pub(crate) fn is_open(&self) -> bool {
        let retry_at = *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_tripped() && retry_at.is_some_and(|at| Instant::now() < at)
    }

    /// Whether calls are let through as they come: false while it is open, and until one has succeeded.
    pub(crate) fn is_closed(&self) -> bool {
        !self.has_tripped()
    }

    /// A call failed.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if self.has_tripped() {
            *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Instant::now() + self.cooldown);
        }
    }

    /// A call succeeded.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_tries_and_closes() {
        let circuit = Circuit::new(2, Duration::from_secs(3600));
        circuit.failed();
        assert!(circuit.admits() && circuit.is_closed());
        circuit.failed();
        assert!(!circuit.admits() && circuit.is_open() && !circuit.is_closed());
        circuit.succeeded();
        assert!(circuit.admits() && !circuit.is_open() && circuit.is_closed());
        let cooled = Circuit::new(1, Duration::ZERO);
        cooled.failed();
        assert!(!cooled.is_open() && cooled.admits(), "it is time to try");
        assert!(!cooled.is_closed(), "nothing has succeeded yet");
    }

    #[test]
    fn after_a_cool_down_one_may_try() {
        let circuit = Circuit::new(1, Duration::from_secs(3600));
        circuit.failed();
        *circuit.retry_at.lock().unwrap() = Some(Instant::now());
        assert!(circuit.admits(), "one");
        assert!(!circuit.admits(), "and only one");
    }
}
