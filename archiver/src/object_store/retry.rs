//! Requests that failed in passing are made again, after a pause that grows and is drawn by chance ("full jitter"), so
//! that those who failed together do not come back together.
//!
//! Every call of [`ObjectStore`] may be made again, also after an attempt that had its effect
//! unseen; so nothing needs to be known here of what is asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::ObjectStore;
use super::error::{ErrorKind, Result};
use super::layer::{Attempt, Layer, Layered, Request};
use crate::metrics;

/// The longest pause before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The same where the store asks for fewer requests.
const FIRST_PAUSE_THROTTLED: Duration = Duration::from_millis(500);
/// The longest pause of all.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a job goes on asking a store that takes no more requests just now.
const PATIENCE_OF_JOBS: Duration = Duration::from_secs(120);

/// Makes requests again that failed in passing.
#[derive(Debug)]
pub struct Retry {
    max_attempts: u32,
}

/// Makes requests of jobs again, after [`Retry`] has given up, as long as the store says that it takes no more just now:
/// nobody waits for a job, and one that fails has its work before it again. Other failures are a job's end.
#[derive(Debug)]
struct Patience;

/// `store` as jobs use it: they wait for up to two minutes while it takes no more requests.
#[must_use]
pub fn patient(store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    Layered::around(store, Patience)
}

#[async_trait]
impl Layer for Patience {
    async fn call<T: Send>(&self, _: Request<'_>, attempt: Attempt<'_, T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            match attempt().await {
                Err(error)
                    if error.kind() == ErrorKind::Throttled
                        && begun.elapsed() < PATIENCE_OF_JOBS =>
                {
                    tracing::info!(%error, "a job waits for the object store");
                    tokio::time::sleep(LONGEST_PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
                }
                result => return result,
            }
        }
    }
}

impl Retry {
    /// At most `max_attempts` in all (at least 1).
    #[must_use]
    pub fn new(max_attempts: u32) -> Self {
        Self {
            max_attempts: max_attempts.max(1),
        }
    }
}

/// The longest pause after attempt number `attempt` failed with `kind`.
fn longest_pause(kind: ErrorKind, attempt: u32) -> Duration {
    let first = if kind == ErrorKind::Throttled {
        FIRST_PAUSE_THROTTLED
    } else {
        FIRST_PAUSE
    };
    first
        .saturating_mul(1 << (attempt - 1).min(10))
        .min(LONGEST_PAUSE)
}

#[async_trait]
impl Layer for Retry {
    async fn call<T: Send>(&self, request: Request<'_>, attempt: Attempt<'_, T>) -> Result<T> {
        let mut number = 1;
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() && number < self.max_attempts => error,
                result => return result,
            };
            metrics::OBJECT_RETRIES
                .with([request.operation.name(), error.kind().name()])
                .increment(1);
            let pause = longest_pause(error.kind(), number).mul_f64(rand::random());
            tracing::debug!(%error, number, ?pause, "asking the object store again");
            tokio::time::sleep(pause).await;
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::error::{Operation, StoreError};
    use super::*;

    /// How many attempts are made at a request that always fails with `kind`.
    async fn attempts(kind: ErrorKind) -> u32 {
        let made = AtomicU32::new(0);
        let request = Request {
            operation: Operation::Head,
            subject: "a",
            bytes: 0,
        };
        let result = Retry::new(4)
            .call::<()>(request, &|| {
                made.fetch_add(1, Ordering::SeqCst);
                Box::pin(
                    async move { Err(StoreError::new(kind, Operation::Head, "a", "on purpose")) },
                )
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), kind);
        made.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_asked_again() {
        use ErrorKind::*;
        for kind in [Throttled, Damaged, Unavailable, Timeout] {
            assert_eq!(attempts(kind).await, 4, "{kind}");
        }
        for kind in [
            NotFound,
            AlreadyExists,
            OutOfRange,
            Denied,
            Full,
            Unsupported,
            Misconfigured,
            Refused,
        ] {
            assert_eq!(attempts(kind).await, 1, "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_wait_for_a_store_that_is_busy() {
        for (busy_for, succeeds) in [(60, true), (600, false)] {
            let begun = Instant::now();
            let request = Request {
                operation: Operation::Head,
                subject: "a",
                bytes: 0,
            };
            let result = Patience
                .call::<()>(request, &|| {
                    Box::pin(async move {
                        if begun.elapsed() > Duration::from_secs(busy_for) {
                            return Ok(());
                        }
                        let busy = ErrorKind::Throttled;
                        Err(StoreError::new(busy, Operation::Head, "a", "on purpose"))
                    })
                })
                .await;
            assert_eq!(result.is_ok(), succeeds, "{busy_for} s");
            assert!(begun.elapsed() < PATIENCE_OF_JOBS + 2 * LONGEST_PAUSE);
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<u128> = (1..=8)
            .map(|n| longest_pause(ErrorKind::Unavailable, n).as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(longest_pause(ErrorKind::Throttled, 1).as_millis(), 500);
        assert_eq!(longest_pause(ErrorKind::Throttled, u32::MAX), LONGEST_PAUSE);
    }
}
