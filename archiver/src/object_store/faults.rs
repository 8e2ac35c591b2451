//! Faults on purpose, for the tests of everything that uses a store: it is down, slow, or lying.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::ObjectStore;
use super::error::{ErrorKind, Operation, Result, StoreError};
use super::key::ObjectKey;
use super::layer::{Attempt, Layer, Layered, Request};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It fails, and has no effect.
    Before(ErrorKind),
    /// It has its effect, and fails all the same.
    After(ErrorKind),
    /// It is answered later.
    Delay(Duration),
    /// One bit of what is read is another (reads only).
    FlippedBit,
    /// The last byte of what is read is missing (reads only).
    Shortened,
}

/// Says which requests go wrong, and counts them all. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Vec<(Operation, u32, Fault)>,
    requests: HashMap<Operation, u32>,
}

impl Faults {
    /// A store around `inner` in which nothing goes wrong yet.
    #[must_use]
    pub fn around(inner: Arc<dyn ObjectStore>) -> (Arc<dyn ObjectStore>, Self) {
        let faults = Self::default();
        (Layered::around(inner, faults.clone()), faults)
    }

    /// The next `times` requests of `operation` go wrong in this way, after those that were planned before.
    pub fn plan(&self, operation: Operation, times: u32, fault: Fault) {
        self.lock().faults.push((operation, times, fault));
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        self.lock().faults.clear();
    }

    /// How many requests of `operation` were made.
    #[must_use]
    pub fn requests(&self, operation: Operation) -> u32 {
        self.lock().requests.get(&operation).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, operation: Operation) -> Option<Fault> {
        let mut plan = self.lock();
        *plan.requests.entry(operation).or_default() += 1;
        let (_, times, fault) = plan
            .faults
            .iter_mut()
            .find(|(planned, times, _)| *planned == operation && *times > 0)?;
        *times -= 1;
        Some(*fault)
    }
}

#[async_trait]
impl Layer for Faults {
    async fn call<T: Send>(&self, request: Request<'_>, attempt: Attempt<'_, T>) -> Result<T> {
        let failed = |kind| {
            Err(StoreError::new(
                kind,
                request.operation,
                request.subject,
                "a fault on purpose",
            ))
        };
        match self.next(request.operation) {
            Some(Fault::Before(kind)) => failed(kind),
            Some(Fault::After(kind)) => attempt().await.and_then(|_| failed(kind)),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                attempt().await
            }
            Some(Fault::FlippedBit | Fault::Shortened) | None => attempt().await,
        }
    }

    async fn get_range(
        &self,
        inner: &Arc<dyn ObjectStore>,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let failed = |kind| {
            Err(StoreError::new(
                kind,
                Operation::GetRange,
                key,
                "a fault on purpose",
            ))
        };
        let fault = self.next(Operation::GetRange);
        match fault {
            Some(Fault::Before(kind)) => return failed(kind),
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
            _ => {}
        }
        let mut bytes = inner.get_range(key, range).await?;
        match fault {
            Some(Fault::After(kind)) => return failed(kind),
            Some(Fault::Shortened) => bytes.truncate(bytes.len().saturating_sub(1)),
            Some(Fault::FlippedBit) => {
                let mut changed = bytes.to_vec();
                let middle = changed.len() / 2;
                if let Some(byte) = changed.get_mut(middle) {
                    *byte ^= 1;
                }
                bytes = changed.into();
            }
            _ => {}
        }
        Ok(bytes)
    }
}
