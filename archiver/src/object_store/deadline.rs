//! Every request ends in time: what it may take grows with its bytes, so that a slow link is told from a dead one.

use std::time::Duration;

use async_trait::async_trait;

use super::error::{ErrorKind, Result, StoreError};
use super::layer::{Attempt, Layer, Request};

/// Gives up on a request after `base` and the time that its bytes may take.
#[derive(Debug)]
pub struct Deadline {
    base: Duration,
    min_throughput: u64,
}

impl Deadline {
    /// `min_throughput` is in bytes a second.
    #[must_use]
    pub fn new(base: Duration, min_throughput: u64) -> Self {
        Self {
            base,
            min_throughput: min_throughput.max(1),
        }
    }

    fn of(&self, request: Request<'_>) -> Duration {
        self.base + Duration::from_millis(request.bytes.saturating_mul(1000) / self.min_throughput)
    }
}

#[async_trait]
impl Layer for Deadline {
    async fn call<T: Send>(&self, request: Request<'_>, attempt: Attempt<'_, T>) -> Result<T> {
        let patience = self.of(request);
        tokio::time::timeout(patience, attempt())
            .await
            .unwrap_or_else(|_| {
                let detail = format!("after {patience:.1?}");
                Err(StoreError::new(
                    ErrorKind::Timeout,
                    request.operation,
                    request.subject,
                    detail,
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Operation;
    use super::*;

    #[test]
    fn large_requests_have_longer() {
        let deadline = Deadline::new(Duration::from_secs(5), 1 << 20);
        let of = |bytes| {
            deadline.of(Request {
                operation: Operation::Put,
                subject: "a",
                bytes,
            })
        };
        assert_eq!(of(0), Duration::from_secs(5));
        assert_eq!(of(8 << 20), Duration::from_secs(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_hangs_is_given_up() {
        let deadline = Deadline::new(Duration::from_secs(5), 1 << 20);
        let request = Request {
            operation: Operation::Head,
            subject: "a/b",
            bytes: 0,
        };
        let error = deadline
            .call::<()>(request, &|| Box::pin(std::future::pending()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.to_string(), "head a/b: no answer in time: after 5.0s");
    }
}
