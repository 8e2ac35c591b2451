//! Counts every request that is made, its bytes and its time.
//!
//! `backscroll_object_store_requests_total{operation, outcome}` (`ok`, or the error's kind),
//! `backscroll_object_store_bytes_total{operation}` and `backscroll_object_store_request_seconds{operation}`. A retry is
//! a request of its own here, as it is on the store's bill.

use std::time::Instant;

use async_trait::async_trait;

use super::error::Result;
use super::layer::{Attempt, Layer, Request};

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
        metrics::counter!("backscroll_object_store_requests_total", "operation" => operation, "outcome" => outcome).increment(1);
        metrics::histogram!("backscroll_object_store_request_seconds", "operation" => operation)
            .record(begun.elapsed());
        if result.is_ok() && request.bytes > 0 {
            metrics::counter!("backscroll_object_store_bytes_total", "operation" => operation)
                .increment(request.bytes);
        }
        result
    }
}
