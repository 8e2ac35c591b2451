//! From a configuration to a running service: configuration → logs → address → secret → schema → store → serve → close.
//!
//! Each step fails with what to do about it. A crash at any point leaves nothing to mend: the secret and every migration
//! are there whole or not at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use backscroll_shard::error::Error as StoreError;
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::store::Store;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::deployment::Deployment;
use crate::schema::{self, DatabaseSchema};
use crate::{server, telemetry};

/// How long a command that is done waits for the store to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// A service that is about to answer.
#[derive(Clone, Copy)]
pub struct Running<'a> {
    /// The configuration in effect.
    pub config: &'a Config,
    /// Where it listens.
    pub address: SocketAddr,
    /// The open store.
    pub store: &'a Arc<Store>,
}

/// Serves until a signal. `ready` is told once connections are accepted and the store is open, and is done before the
/// first request is answered.
///
/// # Errors
/// When a step of the start fails, or the service ends by itself.
pub async fn serve(
    config: Config,
    ready: impl AsyncFnOnce(Running<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry)?;
    let shutdown = server::shutdown_on_signals()?;
    // Before anything is written, so that a second start on the same port changes nothing.
    let listener = listen(config.server.listen).await?;
    let address = listener.local_addr()?;
    let config = config.with_secret(true)?;
    let deployment = open(&config).await?;
    tell(&config, address, &deployment.objects.location());

    let ready = ready(Running {
        config: &config,
        address,
        store: &deployment.store,
    });
    match shutdown.run_until_cancelled(ready).await {
        Some(Ok(())) => {}
        stopped => {
            close(&deployment).await;
            return stopped.unwrap_or(Ok(()));
        }
    }
    server::serve(deployment, &config.server, &config.auth, listener, shutdown).await
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let hint = || {
        format!("cannot listen on {address}; choose another address with server.listen or --listen")
    };
    TcpListener::bind(address).await.with_context(hint)
}

fn tell(config: &Config, address: SocketAddr, objects: &str) {
    let store = &config.store;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, algorithm = config.auth.algorithm.name(), "starting");
    tracing::info!(url = %store.directory.url.redacted(), "directory");
    for shard in &store.shards {
        tracing::info!(name = %shard.name, primary = %shard.primary.redacted(), replicas = shard.replicas.len(), "shard");
    }
    let archive = &config.archive;
    let schedule = if archive.schedule.is_empty() {
        "never by itself"
    } else {
        &archive.schedule
    };
    tracing::info!(%objects, after = %archive.after, schedule, time_zone = archive.time_zone, "archive");
}

/// Opens everything, the schema made or brought up to date first if it is SQLite. On MySQL that is `backscroll migrate`'s
/// to do, at a moment the operator chooses.
///
/// # Errors
/// When the schema is not up to date, or the store or the object store cannot be opened.
pub async fn open(config: &Config) -> anyhow::Result<Deployment> {
    if config.is_embedded() {
        let hint = || format!("cannot prepare the data in {}", config.data_dir.display());
        migrate_all(&config.store, false).await.with_context(hint)?;
        return open_all(config).await;
    }
    open_existing(config).await
}

/// Opens what is there already, and changes nothing about the databases.
///
/// # Errors
/// As [`open`].
pub async fn open_existing(config: &Config) -> anyhow::Result<Deployment> {
    let schemas = schema::inspect(&config.store).await;
    let behind: Vec<String> = schemas.iter().filter_map(missing).collect();
    if !behind.is_empty() {
        let remedy = if config.is_embedded() {
            format!(
                "there is no data of this version in {}; start `backscroll serve` once, or import",
                config.data_dir.display()
            )
        } else {
            "the schema is not up to date; run `backscroll migrate` with this configuration, then try again".into()
        };
        bail!("{remedy}\n  {}", behind.join("\n  "));
    }
    // One database being away must not keep the others from being served.
    for DatabaseSchema {
        database,
        url,
        pending,
    } in &schemas
    {
        if let Err(error) = pending {
            tracing::warn!(database, url = %url.redacted(), %error, "cannot be reached; going on without it");
        }
    }
    open_all(config).await
}

fn missing(schema: &DatabaseSchema) -> Option<String> {
    let pending = schema
        .pending
        .as_ref()
        .ok()
        .filter(|pending| !pending.is_empty())?;
    Some(format!(
        "{} ({}) lacks {}",
        schema.database,
        schema.url.redacted(),
        pending.join(", ")
    ))
}

async fn open_all(config: &Config) -> anyhow::Result<Deployment> {
    let opened = Deployment::open(
        &config.store,
        &config.object_store,
        &config.archive,
        &config.realtime,
        &config.redis,
    )
    .await;
    match opened.map_err(|error| error.downcast::<StoreError>()) {
        Ok(deployment) => Ok(deployment),
        Err(Ok(error)) => Err(explain(error, config).await),
        Err(Err(error)) => Err(error),
    }
}

/// `error`, with the databases that do not answer named.
pub async fn explain(error: StoreError, config: &Config) -> anyhow::Error {
    let schemas = schema::inspect(&config.store).await;
    let unreachable: Vec<String> = schemas
        .into_iter()
        .filter_map(|schema| {
            Some(format!(
                "{} ({}): {}",
                schema.database,
                schema.url.redacted(),
                schema.pending.err()?
            ))
        })
        .collect();
    if unreachable.is_empty() {
        return error.into();
    }
    anyhow::anyhow!("cannot use\n  {}", unreachable.join("\n  "))
}

/// Closes what a command has opened.
pub async fn close(deployment: &Deployment) {
    deployment.close(CLOSE_PATIENCE).await;
}
