//! What the handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use backscroll_shard::store::{Health, Store};

use super::settings::ServerSettings;
use crate::auth::Authenticator;

/// How long an answer about health is good for: however often it is asked, dependencies are asked no more often.
const HEALTH_FRESH: Duration = Duration::from_millis(500);
/// How long each dependency has to answer.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

/// The service's state.
pub struct App {
    /// The store.
    pub store: Arc<Store>,
    /// Checks tokens.
    pub auth: Authenticator,
    pub(super) max_body: usize,
    pub(super) request_timeout: Duration,
    pub(super) openapi: Bytes,
    max_requests: usize,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    health: tokio::sync::Mutex<Option<(Instant, Arc<Health>)>>,
}

impl App {
    /// The state of a service that is about to start.
    #[must_use]
    pub fn new(store: Arc<Store>, auth: Authenticator, settings: &ServerSettings) -> Self {
        Self {
            store,
            auth,
            max_body: settings.max_body,
            request_timeout: settings.request_timeout.0,
            openapi: Bytes::from(crate::openapi::json()),
            max_requests: settings.max_requests,
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            health: tokio::sync::Mutex::new(None),
        }
    }

    /// From now on `/readyz` says no, and every answer asks its connection to close.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the service is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Requests worked on now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A place among the requests worked on; none when all are taken.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        (self.in_flight.fetch_add(1, Ordering::Relaxed) < self.max_requests).then_some(place)
    }

    /// The state of every dependency, at most [`HEALTH_FRESH`] old.
    pub(super) async fn health(&self) -> Arc<Health> {
        let mut last = self.health.lock().await;
        if let Some((at, health)) = &*last
            && at.elapsed() < HEALTH_FRESH
        {
            return Arc::clone(health);
        }
        let health = Arc::new(Box::pin(self.store.health(HEALTH_PATIENCE)).await);
        log_failures(&health);
        *last = Some((Instant::now(), Arc::clone(&health)));
        health
    }
}

/// What is away is answered; why is for the log, since it may name hosts and users.
fn log_failures(health: &Health) {
    let primaries = health
        .shards
        .iter()
        .map(|shard| (shard.name.as_str(), &shard.primary));
    let replicas = health.shards.iter().flat_map(|shard| {
        shard
            .replicas
            .iter()
            .map(|replica| (shard.name.as_str(), replica))
    });
    for (name, dependency) in std::iter::once(("directory", &health.directory))
        .chain(primaries)
        .chain(replicas)
    {
        if let Some(error) = &dependency.error {
            tracing::warn!(dependency = name, error, "a dependency is away");
        }
    }
}

/// A request's place, given back when dropped.
pub(super) struct Place(Arc<App>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
