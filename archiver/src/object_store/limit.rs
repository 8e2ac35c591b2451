//! Only so many requests are under way at once, and only so many wait for their turn, for so long (INV-BOUND): a store
//! that has become slow is not buried under requests, and neither is this process.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::error::{ErrorKind, Result, StoreError};
use super::layer::{Attempt, Layer, Request};
use crate::metrics;

/// How many may wait for each that is under way.
const WAITING_EACH: usize = 16;

/// Lets a bounded number of requests through at a time.
#[derive(Debug)]
pub struct Limit {
    under_way: Semaphore,
    admitted: Semaphore,
    longest_wait: Duration,
}

impl Limit {
    /// At most `max_requests` under way (at least 1); the others wait up to `longest_wait`.
    #[must_use]
    pub fn new(max_requests: usize, longest_wait: Duration) -> Self {
        Self {
            under_way: Semaphore::new(max_requests.max(1)),
            admitted: Semaphore::new(Self::most(max_requests)),
            longest_wait,
        }
    }

    /// How many may be under way or wait in all.
    pub(super) fn most(max_requests: usize) -> usize {
        max_requests
            .max(1)
            .saturating_mul(WAITING_EACH + 1)
            .min(Semaphore::MAX_PERMITS)
    }
}

#[async_trait]
impl Layer for Limit {
    async fn call<T: Send>(&self, request: Request<'_>, attempt: Attempt<'_, T>) -> Result<T> {
        let refused = |why: &str| {
            metrics::OBJECT_LIMITED.increment(1);
            StoreError::new(
                ErrorKind::Throttled,
                request.operation,
                request.subject,
                why,
            )
        };
        let _admitted = self
            .admitted
            .try_acquire()
            .map_err(|_| refused("too many requests wait already (object_store.max_requests)"))?;
        let turn = tokio::time::timeout(self.longest_wait, self.under_way.acquire()).await;
        let Ok(Ok(_under_way)) = turn else {
            return Err(refused("no turn in time (object_store.max_requests)"));
        };
        attempt().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::super::error::Operation;
    use super::*;

    fn request() -> Request<'static> {
        Request {
            operation: Operation::Head,
            subject: "a",
            bytes: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_at_once() {
        let limit = Limit::new(3, Duration::from_secs(60));
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || -> futures_util::future::BoxFuture<'_, Result<()>> {
            Box::pin(async {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let results = join_all((0..30).map(|_| limit.call(request(), &work))).await;
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_served_is_told() {
        let limit = Limit::new(1, Duration::from_secs(2));
        let refusals = AtomicUsize::new(0);
        let calls = (0..20).map(|_| async {
            let error = limit
                .call::<()>(request(), &|| Box::pin(std::future::pending()))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Throttled);
            refusals.fetch_add(1, Ordering::SeqCst);
        });
        // One is under way for ever; 16 wait and are refused after two seconds; the other three are refused at once.
        let all = tokio::time::timeout(Duration::from_secs(3), join_all(calls)).await;
        assert!(all.is_err());
        assert_eq!(refusals.load(Ordering::SeqCst), 19);
    }
}
