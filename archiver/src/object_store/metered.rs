//! Counts every request that is made, its bytes and its time.
//!
//! The metrics are `OBJECT_REQUESTS`, `OBJECT_BYTES` and `OBJECT_REQUEST_SECONDS` of [`crate::metrics`]. A retry is a request of its
//! own here, as it is on the store's bill.

use std::time::Instant;

use async_trait::async_trait;

use super::error::Result;
use super::layer::{Attempt, Layer, Request};
use crate::metrics;

/// Counts requests.
#[derive(Debug)]
pub struct Metered;

#[async_trait]
impl Layer for Metered {
    async fn call<T: Send>(&self, request: Request<'_>, attempt: Attempt<'_, T>) -> Result<T> {
        let begun = Instant::now();
        let result = attempt().await;
        let operation = request.operation.name();
        let outcome = result
            .as_ref()
            .err()
            .map_or("ok", |error| error.kind().name());
        metrics::OBJECT_REQUESTS
            .with([operation, outcome])
            .increment(1);
        metrics::OBJECT_REQUEST_SECONDS
            .with([operation])
            .record(begun.elapsed());
        if result.is_ok() && request.bytes > 0 {
            metrics::OBJECT_BYTES
                .with([operation])
                .increment(request.bytes);
        }
        result
    }
}
