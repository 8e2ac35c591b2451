//! Connections, start and graceful stop.
//!
//! The stop, step by step: `/readyz` says no and every answer asks its connection to close; an archive job ends and gives
//! its lease up; sessions are sent away over `realtime.drain_window`; the listener goes on until they have gone and
//! [`ServerSettings::shutdown_delay`] is over, takes what the kernel has accepted, and closes; connections that are in use
//! close after their answer, those still idle after a moment are closed; requests in flight have
//! [`ServerSettings::shutdown_timeout`]; the store finishes what it accepted (INV-ACK). A connection is never closed under
//! a request that was taken, as long as it keeps that time.
//!
//! Each step has a bound, and so has the whole ([`longest_stop`], after which [`crate::signals`] ends the process): what
//! does not end in its time is left behind and named.

mod connections;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::body::Bytes;
use backscroll_archiver::audit_heads;
use backscroll_archiver::jobs::schedule;
use backscroll_archiver::media::processing::{self, Queue};
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::media::worker::Program;
use backscroll_realtime::gateway::Gateway;
use backscroll_realtime::settings::RealtimeSettings;
use backscroll_shard::moves;
use backscroll_shard::settings::check;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::asyncapi;
use crate::auth::{AuthSettings, Authenticator};
use crate::deployment::{Deployment, node_name};
use crate::http;
use crate::http::console::Console;
use crate::http::edge::ServiceEdge;
use crate::http::settings::ServerSettings;
use crate::http::state::{App, Parts};
use crate::openapi;
use crate::signals::StoppedLate;
use crate::telemetry;

use connections::Connections;

/// How long connections that stay have to finish the command they are at.
const SESSIONS_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an archive job has to end and to give its lease up; a picture's lease ends by itself.
const JOBS_CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the store has to finish after the last request.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long tasks have to end that wait for nothing.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);
/// What a stop may take beyond the bounds of its steps.
const SLACK: Duration = Duration::from_secs(5);

/// Serves on `listener`, runs the archive's schedule and has `worker` make smaller forms of pictures, until `stop` is cancelled; then drains, closes `deployment`
/// and returns. It also stops, and fails, when one of its tasks has been given up.
///
/// # Errors
/// When it cannot start: settings that are not usable, or a file of keys that cannot be read. When a task was given up, or
/// did not end in time ([`StoppedLate`]).
pub async fn serve(
    deployment: Deployment,
    server: &ServerSettings,
    auth: &AuthSettings,
    (media, worker, console): (&MediaSettings, &Program, Option<Console>),
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let problems = server.check();
    anyhow::ensure!(
        problems.is_empty(),
        "{}",
        check::lines(&problems).join("\n")
    );
    telemetry::init_metrics()?;
    let supervisor = deployment.store.supervisor().clone();
    // These end with the first sign of a stop: another server goes on from where they were left, or this one later.
    let jobs = supervisor.group();
    let pictures = processing::start(
        &deployment.store,
        &deployment.objects,
        (media, worker),
        &jobs,
        &stop,
    );
    let parts = start_parts(&deployment, auth, (media, console), pictures).await?;
    let app = Arc::new(App::new(parts, server));
    let background = supervisor.group();
    let stop_background = CancellationToken::new();
    telemetry::maintain_metrics(&background, &stop_background);
    app.auth.maintain(&background, &stop_background);
    let archive = deployment.archive.clone().stopped_by(stop.clone());
    schedule::start(&archive, &jobs, &stop);
    audit_heads::start(&deployment.store, &deployment.objects, &jobs, &stop);
    moves::start(deployment.store.router(), &node_name(), &jobs, &stop);

    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let service = http::service(&app, server);
    let connections = Connections::accept(service, (server, &app.answers), listener, &supervisor);
    tracing::info!(%address, "serving");
    let given_up = tokio::select! {
        () = stop.cancelled() => None,
        task = supervisor.given_up() => Some(task),
    };
    stop.cancel();
    tracing::info!(
        in_flight = app.in_flight(),
        connections = connections.count(),
        "shutting down"
    );
    app.drain();
    // Whoever is sent away meanwhile finds another node; requests are served until they have gone.
    tokio::join!(
        tokio::time::sleep(server.shutdown_delay.0),
        app.gateway.drain(),
    );
    let cut = connections.drain(server.shutdown_timeout.0).await;
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "requests did not finish in time and were cut off"
        );
    }
    app.gateway.close(SESSIONS_CLOSE_TIMEOUT).await;
    jobs.finish(Instant::now() + JOBS_CLOSE_TIMEOUT).await;
    deployment.close(STORE_CLOSE_TIMEOUT).await;
    stop_background.cancel();
    background.finish(Instant::now() + LAST_TIMEOUT).await;
    let stuck = supervisor.stuck();
    if let Some(task) = given_up {
        anyhow::bail!(
            "the task `{task}` has ended too often and was given up; the log says why it ends"
        );
    }
    if !stuck.tasks.is_empty() {
        return Err(StoppedLate(stuck).into());
    }
    tracing::info!(left = %stuck, "stopped");
    Ok(())
}

/// Starts what the service is made of besides the deployment: keys, the gateway of sessions, documents.
async fn start_parts(
    deployment: &Deployment,
    auth: &AuthSettings,
    (media, console): (&MediaSettings, Option<Console>),
    pictures: Queue,
) -> anyhow::Result<Parts> {
    let sanctions = deployment.store.sanctions();
    if let Err(error) = sanctions.refresh().await {
        tracing::warn!(%error, "the directory is away: sanctions hold as soon as it is back");
    }
    let auth = Arc::new(Authenticator::open(auth).await?.heeding(sanctions));
    let gateway = Gateway::start(
        Arc::clone(&deployment.store),
        &deployment.bus,
        deployment.roster.clone(),
        Arc::new(ServiceEdge(Arc::clone(&auth))),
        &deployment.realtime,
    );
    Ok(Parts {
        store: Arc::clone(&deployment.store),
        auth,
        gateway,
        objects: Arc::clone(&deployment.objects),
        media: media.clone(),
        console,
        pictures,
        openapi: Bytes::from(openapi::json()),
        asyncapi: Bytes::from(asyncapi::json()),
    })
}

/// How long a stop may take in all, if every step of it takes as long as it may.
#[must_use]
pub fn longest_stop(server: &ServerSettings, realtime: &RealtimeSettings) -> Duration {
    let goodbye = server.shutdown_delay.0.max(realtime.drain_window.0);
    goodbye
        + server.shutdown_timeout.0
        + SESSIONS_CLOSE_TIMEOUT * 2 // the hub after the sessions
        + JOBS_CLOSE_TIMEOUT
        + STORE_CLOSE_TIMEOUT * 2 // Redis after the store
        + SLACK
}
