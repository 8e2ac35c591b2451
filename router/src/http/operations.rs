//! For operators: is it alive, is it ready, its metrics, its documentation.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use backscroll_shard::store::{DependencyHealth, Health, ShardHealth};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::App;
use crate::metrics;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
        .routes(routes!(asyncapi))
}

/// A sign of life.
#[derive(Serialize, ToSchema)]
struct Alive {
    /// Always `alive`.
    status: &'static str,
}

/// Is the process alive
///
/// It says nothing about what it depends on; a failing dependency is no reason to restart this process.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "healthz", security(()),
    responses((status = 200, description = "It is", body = Alive)),
)]
async fn healthz() -> Answer<Alive> {
    Answer(Alive { status: "alive" })
}

/// Whether requests should be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Readiness {
    /// Yes.
    Ready,
    /// Yes, but something it depends on is away.
    Degraded,
    /// No: what it needs is away.
    Unavailable,
    /// No: it is shutting down.
    Draining,
}

/// Whether requests should be sent here, and what each dependency says.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Ready {
    /// The answer.
    status: Readiness,
    /// The directory's database.
    directory: Dependency,
    /// Whether there is a map from keys to shards, at least a cached one.
    has_map: bool,
    /// The shards.
    shards: Vec<Shard>,
    /// Where archived messages are. Without it everything that is not archived is served.
    object_store: Dependency,
    /// The keys that tokens are checked with.
    token_keys: TokenKeys,
    /// Delivery between nodes.
    bus: BusState,
    /// What the process does by itself.
    tasks: TaskStates,
    /// Connections that stay.
    sessions: usize,
    /// Requests worked on now.
    requests_in_flight: usize,
}

/// Delivery between nodes.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BusState {
    /// What this node publishes was received lately, and Redis refuses nothing.
    ok: bool,
    /// How long ago that was proven, in milliseconds. Absent where there is only one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_for_ms: Option<u64>,
    /// What Redis refuses or why it cannot be reached, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What the process does by itself, such as writing what was sent. A task that ends is started again after a moment; one
/// that keeps ending ends the process.
#[derive(Serialize, ToSchema)]
struct TaskStates {
    /// All of them run.
    ok: bool,
    /// The names of those that do not.
    #[schema(value_type = Vec<String>)]
    down: Vec<Arc<str>>,
}

/// The keys that tokens are checked with.
#[derive(Serialize, ToSchema)]
struct TokenKeys {
    /// They are as fresh as they should be. If not, the last good ones are used.
    ok: bool,
}

/// Something that is needed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    /// It answered, and is what its address stands for.
    ok: bool,
    /// It answered, but is another database than the one that its address stands for; it is not used. Absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    wrong_database: bool,
    /// How long that took, in milliseconds.
    latency_ms: f64,
}

impl From<&DependencyHealth> for Dependency {
    fn from(health: &DependencyHealth) -> Self {
        Self {
            ok: health.ok,
            wrong_database: health.wrong_database,
            latency_ms: health.latency_ms,
        }
    }
}

/// A shard.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Shard {
    /// Its name.
    name: String,
    /// Its primary answers.
    primary: Dependency,
    /// Its replicas.
    replicas: Vec<Dependency>,
    /// Requests that read are let through.
    takes_reads: bool,
    /// Requests that write are let through. A primary may answer reads and refuse writes, as during a failover.
    takes_writes: bool,
    /// Open connections.
    connections: u32,
    /// Those of them that are not in use.
    idle_connections: u32,
    /// Messages waiting to be written.
    queued_writes: u64,
}

/// Should requests be sent here
///
/// Names every dependency. One shard or the object store being away is `degraded`, not a reason to stop sending: what does
/// not need them is served. While one of the process's own tasks is down, it is `unavailable`; so it is when a database is not
/// the one its address stands for: the configuration of this server is wrong.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readyz", security(()),
    responses(
        (status = 200, description = "Yes: `ready` or `degraded`", body = Ready),
        (status = 503, description = "No: `unavailable` or `draining`", body = Ready),
    ),
)]
async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, Answer<Ready>) {
    let (health, objects) = tokio::join!(app.health(), app.objects_health());
    let keys_ok = app.auth.failure().is_none();
    let silence = app.gateway.bus_silence();
    let bus_problem = app.gateway.bus_problem();
    let bus_ok = app.gateway.bus_works();
    let down = app.store.supervisor().down();
    let has_map = !app.store.map().assignments().is_empty();
    let status = if app.is_draining() {
        Readiness::Draining
    } else if !has_map || !app.auth.has_keys() || !down.is_empty() {
        Readiness::Unavailable
    } else {
        readiness(&health, objects.ok && keys_ok && bus_ok)
    };
    let code = match status {
        Readiness::Ready | Readiness::Degraded => StatusCode::OK,
        Readiness::Unavailable | Readiness::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    let shard = |shard: &ShardHealth| Shard {
        name: shard.name.to_string(),
        primary: (&shard.primary).into(),
        replicas: shard.replicas.iter().map(Into::into).collect(),
        takes_reads: shard.takes_reads,
        takes_writes: shard.takes_writes,
        connections: shard.connections,
        idle_connections: shard.idle_connections,
        queued_writes: shard.queued_writes,
    };
    let answer = Ready {
        status,
        directory: (&health.directory).into(),
        has_map,
        shards: health.shards.iter().map(shard).collect(),
        object_store: (&objects).into(),
        token_keys: TokenKeys { ok: keys_ok },
        bus: BusState {
            ok: bus_ok,
            silent_for_ms: silence
                .map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
            problem: bus_problem.map(|problem| problem.to_string()),
        },
        tasks: TaskStates {
            ok: down.is_empty(),
            down,
        },
        sessions: app.gateway.count(),
        requests_in_flight: app.in_flight(),
    };
    (code, Answer(answer))
}

/// `others_ok` is about what is needed, but not by every request.
fn readiness(health: &Health, others_ok: bool) -> Readiness {
    let reachable = health
        .shards
        .iter()
        .filter(|shard| shard.primary.ok)
        .count();
    let is_whole = |shard: &ShardHealth| {
        let replicas_ok = shard.replicas.iter().all(|replica| replica.ok);
        shard.takes_reads && shard.takes_writes && replicas_ok
    };
    let primaries = health.shards.iter().map(|shard| &shard.primary);
    let mut used = std::iter::once(&health.directory).chain(primaries);
    if reachable == 0 || used.any(|database| database.wrong_database) {
        Readiness::Unavailable
    } else if health.shards.iter().all(is_whole) && health.directory.ok && others_ok {
        Readiness::Ready
    } else {
        Readiness::Degraded
    }
}

/// Metrics
///
/// In the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics", security(()),
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain")),
)]
async fn metrics(State(app): State<Arc<App>>) -> ([(HeaderName, &'static str); 1], String) {
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
    metrics::HTTP_REQUESTS_IN_FLIGHT.set(app.in_flight() as f64);
    app.store.supervisor().measure();
    app.store.measure();
    app.auth.measure();
    crate::process::measure();
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        crate::telemetry::render_metrics(),
    )
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations", operation_id = "openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json")),
)]
async fn openapi(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], app.openapi.clone())
}

/// The real-time protocol
///
/// Commands and events of `/ws/chat` and of Socket.IO.
#[utoipa::path(
    get, path = "/asyncapi.json", tag = "operations", operation_id = "asyncapi", security(()),
    responses((status = 200, description = "AsyncAPI 3.0", body = Object, content_type = "application/json")),
)]
async fn asyncapi(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], app.asyncapi.clone())
}
