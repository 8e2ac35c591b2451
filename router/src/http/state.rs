//! What the handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use backscroll_archiver::media::cdn::Cdn;
use backscroll_archiver::media::gate::Gate;
use backscroll_archiver::media::processing::Queue;
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::media::upload::Uploads;
use backscroll_archiver::object_store::disk::door::Door;
use backscroll_archiver::object_store::{ErrorKind, ObjectKey, ObjectStore, StoreError};
use backscroll_realtime::gateway::Gateway;
use backscroll_shard::store::{DependencyHealth, Health, Store};

use super::console::Console;
use super::settings::ServerSettings;
use super::unread::UnreadAnswers;
use crate::auth::Authenticator;

/// How long an answer about health is good for: however often it is asked, dependencies are asked no more often.
const HEALTH_FRESH: Duration = Duration::from_millis(500);
/// The same for the object store, where requests are paid for.
const OBJECTS_FRESH: Duration = Duration::from_secs(5);
/// How long each dependency has to answer.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

/// What is done with files of conversations.
pub(super) struct MediaParts {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) uploads: Uploads,
    pub(super) gate: Gate,
    /// From where clients read, if that is not the object store itself.
    pub(super) cdn: Option<Cdn>,
    pub(super) settings: MediaSettings,
    /// Of pictures whose smaller forms are to be made.
    pub(super) queue: Queue,
}

impl MediaParts {
    fn new(objects: Arc<dyn ObjectStore>, settings: &MediaSettings, queue: Queue) -> Self {
        Self {
            queue,
            uploads: Uploads::new(Arc::clone(&objects), settings),
            gate: Gate::new(Arc::clone(&objects), settings),
            cdn: Cdn::of(settings),
            settings: settings.clone(),
            objects,
        }
    }
}

/// What a service is made of, all of it running.
pub struct Parts {
    /// The store.
    pub store: Arc<Store>,
    /// Checks tokens.
    pub auth: Arc<Authenticator>,
    /// Takes connections that stay.
    pub gateway: Arc<Gateway>,
    /// Where archived messages and files are.
    pub objects: Arc<dyn ObjectStore>,
    /// What may be uploaded.
    pub media: MediaSettings,
    /// The chat page, where there is one.
    pub console: Option<Console>,
    /// Where pictures are handed over whose smaller forms are to be made.
    pub pictures: Queue,
    /// The document of the REST interface, as JSON.
    pub openapi: Bytes,
    /// The document of the real-time protocol, as JSON.
    pub asyncapi: Bytes,
}

/// The service's state.
pub struct App {
    /// The store.
    pub store: Arc<Store>,
    /// Checks tokens.
    pub auth: Arc<Authenticator>,
    /// Takes connections that stay.
    pub gateway: Arc<Gateway>,
    pub(super) media: MediaParts,
    pub(super) console: Option<Console>,
    pub(super) max_body: usize,
    pub(super) request_timeout: Duration,
    pub(super) openapi: Bytes,
    pub(super) asyncapi: Bytes,
    /// Answers that wait for their clients.
    pub(crate) answers: Arc<UnreadAnswers>,
    max_requests: usize,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    objects: Arc<dyn ObjectStore>,
    health: tokio::sync::Mutex<Option<(Instant, Arc<Health>)>>,
    objects_health: tokio::sync::Mutex<Option<(Instant, DependencyHealth)>>,
}

impl App {
    /// The state of a service that is made of these parts. Starts nothing.
    #[must_use]
    pub fn new(parts: Parts, settings: &ServerSettings) -> Self {
        Self {
            store: parts.store,
            auth: parts.auth,
            gateway: parts.gateway,
            media: MediaParts::new(Arc::clone(&parts.objects), &parts.media, parts.pictures),
            console: parts.console,
            max_body: settings.max_body,
            request_timeout: settings.request_timeout.0,
            openapi: parts.openapi,
            asyncapi: parts.asyncapi,
            answers: UnreadAnswers::new(settings),
            max_requests: settings.max_requests,
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            objects: parts.objects,
            health: tokio::sync::Mutex::new(None),
            objects_health: tokio::sync::Mutex::new(None),
        }
    }

    /// What answers the signed requests of the object store, if it does not do so itself.
    pub(super) fn door(&self) -> Option<Arc<Door>> {
        self.objects.door()
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

    /// Waits for a client without a place; `None` when all places are taken afterwards.
    pub(super) async fn away<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        let away = Away::new(&self.in_flight);
        let outcome = waiting.await;
        drop(away);
        (self.in_flight() <= self.max_requests).then_some(outcome)
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

    /// The state of the object store, at most [`OBJECTS_FRESH`] old.
    pub(super) async fn objects_health(&self) -> DependencyHealth {
        let mut last = self.objects_health.lock().await;
        if let Some((at, health)) = &*last
            && at.elapsed() < OBJECTS_FRESH
        {
            return health.clone();
        }
        let started = Instant::now();
        let asked = tokio::time::timeout(HEALTH_PATIENCE, ask(self.objects.as_ref())).await;
        let error = match asked {
            Ok(answer) => answer.err().map(|error| error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(error) = &error {
            tracing::warn!(dependency = "object store", error, "a dependency is away");
        }
        let health = DependencyHealth {
            ok: error.is_none(),
            wrong_database: false,
            error,
            latency_ms: started.elapsed().as_secs_f64() * 1e3,
        };
        *last = Some((Instant::now(), health.clone()));
        health
    }
}

/// Whether the object store answers: it is asked for something that it does not have, and says so.
async fn ask(objects: &dyn ObjectStore) -> Result<(), StoreError> {
    #[expect(clippy::expect_used, reason = "two words and a slash are a key")]
    let key = ObjectKey::new("probe/nothing").expect("valid");
    match objects.get_range(&key, 0..1).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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

/// A request that waits for its client, and is not among those worked on until this is dropped.
struct Away<'a>(&'a AtomicUsize);

impl<'a> Away<'a> {
    fn new(in_flight: &'a AtomicUsize) -> Self {
        in_flight.fetch_sub(1, Ordering::Relaxed);
        Self(in_flight)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request's place, given back when dropped.
pub(super) struct Place(Arc<App>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
