//! Reads of the same range of the same object at the same time share one request: a page that many open at once is fetched
//! once ([`crate::flights`]).
//!
//! Objects never change (INV-OBJECT), so key and range say what the bytes are. Each request ends in time, by the layers within; a
//! caller that finds too many under way is refused like by those ([`ErrorKind::Throttled`]).

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use backscroll_shard::tasks::OneShots;
use bytes::Bytes;

use super::ObjectStore;
use super::error::{ErrorKind, Operation, Result, StoreError};
use super::key::ObjectKey;
use super::layer::{Attempt, Layer, Request};
use crate::flights::{Flight, Flights};
use crate::metrics;

/// Joins reads of the same range.
#[derive(Debug)]
pub struct SingleFlight {
    flights: Flights<(ObjectKey, Range<u64>), Result<Bytes>>,
    reads: OneShots,
}

impl SingleFlight {
    /// At most `most` reads at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            flights: Flights::default(),
            reads: OneShots::new("object-read", most),
        }
    }

    /// The read of this range: the one that is under way, or a new one.
    fn flight(
        &self,
        inner: &Arc<dyn ObjectStore>,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Flight<Result<Bytes>>> {
        let route = (key.clone(), range);
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.find(&route) {
            metrics::OBJECT_SHARED_READS.increment(1);
            return Ok(flight);
        }
        let place = self.reads.reserve().map_err(|full| {
            StoreError::new(ErrorKind::Throttled, Operation::GetRange, key.clone(), full)
        })?;
        let inner = Arc::clone(inner);
        let (wanted, range) = route.clone();
        let read = async move { vec![inner.get_range(&wanted, range).await] };
        let started = flights.start(place, vec![route], read);
        let flight = started.into_iter().next().map(|(_, flight)| flight);
        flight.ok_or_else(|| unfinished(key))
    }
}

fn unfinished(key: &ObjectKey) -> StoreError {
    let ended = "the task of the read ended without an answer";
    StoreError::new(ErrorKind::Unavailable, Operation::GetRange, key, ended)
}

#[async_trait]
impl Layer for SingleFlight {
    async fn call<T: Send>(&self, _request: Request<'_>, attempt: Attempt<'_, T>) -> Result<T> {
        attempt().await
    }

    async fn get_range(
        &self,
        inner: &Arc<dyn ObjectStore>,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let read = self.flight(inner, key, range)?.value().await;
        read.unwrap_or_else(|| Err(unfinished(key)))
    }
}
