//! Who asks for the same range of the same object at the same time shares one request: a page that many open at once is
//! fetched once.
//!
//! The request is made by a task of its own. It is finished also when those who asked have given up, so that a client
//! with less patience than the store needs does not start it anew each time. Objects never change (INV-OBJECT), so key
//! and range say what the bytes are. Each ends in time, by the layers within; who finds too many under way is refused like
//! by those ([`ErrorKind::Throttled`]).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use backscroll_shard::tasks::OneShots;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use super::ObjectStore;
use super::error::{ErrorKind, Operation, Result, StoreError};
use super::key::ObjectKey;
use super::layer::{Attempt, Layer, Request};
use crate::metrics;

type Flight = Shared<BoxFuture<'static, Result<Bytes>>>;
type Flights = Mutex<HashMap<(ObjectKey, Range<u64>), Flight>>;

/// Joins reads of the same range.
#[derive(Debug)]
pub struct SingleFlight {
    flights: Arc<Flights>,
    reads: OneShots,
}

fn lock(flights: &Flights) -> MutexGuard<'_, HashMap<(ObjectKey, Range<u64>), Flight>> {
    // Nothing panics half-way through a change of the map.
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the flight off the map when its task ends, however it does.
struct Landing {
    flights: Arc<Flights>,
    route: (ObjectKey, Range<u64>),
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.route);
    }
}

impl SingleFlight {
    /// At most `most` reads at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            flights: Arc::default(),
            reads: OneShots::new("object-read", most),
        }
    }

    /// The flight on this route: the one that is under way, or a new one.
    fn flight(
        &self,
        inner: &Arc<dyn ObjectStore>,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Flight> {
        let route = (key.clone(), range.clone());
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&route) {
            metrics::OBJECT_SHARED_READS.increment(1);
            return Ok(flight.clone());
        }
        let place = self.reads.reserve().map_err(|full| {
            StoreError::new(ErrorKind::Throttled, Operation::GetRange, key.clone(), full)
        })?;
        let landing = Landing {
            flights: Arc::clone(&self.flights),
            route: route.clone(),
        };
        let inner = Arc::clone(inner);
        let task = place.spawn(async move {
            let landing = landing;
            inner
                .get_range(&landing.route.0, landing.route.1.clone())
                .await
        });
        let key = key.clone();
        let failed =
            move |error| StoreError::new(ErrorKind::Unavailable, Operation::GetRange, key, error);
        let flight = task
            .map(|ended| ended.unwrap_or_else(|error| Err(failed(error))))
            .boxed()
            .shared();
        flights.insert(route, flight.clone());
        Ok(flight)
    }
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
        self.flight(inner, key, range)?.await
    }
}
