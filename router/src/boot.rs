//! From a configuration to a running service: configuration → logs and metrics → signals → address → lock of embedded
//! data → their permissions → secret → databases compared with what their addresses stand for → schema → store → serve → close.
//!
//! Each step fails with what to do about it. A crash at any point leaves nothing to mend: the secret and every migration
//! are there whole or not at all, and a deployment that was being made is made to its end by the next start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use backscroll_archiver::media::worker::Program;
use backscroll_shard::error::Error as StoreError;
use backscroll_shard::migrate::{Migrated, migrate_with};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::{OneShots, Supervisor};
use tokio::net::TcpListener;

use crate::config::Config;
use crate::deployment::Deployment;
use crate::http::console::Console;
use crate::http::listen::ListenAddress;
use crate::in_use::InUse;
use crate::{doctor, failpoint, private, server, signals, start_record, telemetry};

/// How long a command that is done waits for the store to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// What is said of [`Config::ignored`].
pub const IGNORED: &str = "ignored: these variables are no settings (between the parts of a setting's name are two underscores)";

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

/// Serves until a signal. `ready` is told once connections are accepted and the store is open, and goes on beside the
/// requests; when it fails, the service stops.
///
/// # Errors
/// When a step of the start fails, or the service ends by itself.
pub async fn serve(
    config: Config,
    ready: impl AsyncFnOnce(Running<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry)?;
    telemetry::init_metrics()?; // before there are tasks that count something
    let supervisor = Supervisor::with_faults(failpoint::faults()?);
    let longest = server::longest_stop(&config.server, &config.realtime);
    let longest = failpoint::longest_stop(longest)?;
    let stop = signals::stop_on_signals(&supervisor, longest)?;
    // Before anything is written, so that a second start on the same port changes nothing.
    let listener = listen(&config.server.listen).await?;
    let address = listener.local_addr()?;
    let _in_use = InUse::claim(&config)?;
    private::for_data(&config)?;
    let config = config.with_secret(true)?;
    let console = Console::of(&config)?;
    let Some(deployment) = stop.run_until_cancelled(open(&config, &supervisor)).await else {
        return Ok(());
    };
    let deployment = deployment?;
    tell(&config, address, &deployment);
    let preflight = OneShots::new("preflight", 1);
    let _ = preflight.spawn(doctor::preflight(config.clone()));
    let recording = OneShots::new("start-record", 1);
    let (recorded, stopping) = (Arc::clone(&deployment.store), stop.clone());
    let act = start_record::act(&config, address);
    let _ = recording.spawn(async move {
        let record = start_record::record(&recorded, &act);
        stopping.run_until_cancelled(record).await
    });

    let store = Arc::clone(&deployment.store);
    let ready = async {
        let ready = ready(Running {
            config: &config,
            address,
            store: &store,
        });
        let done = stop.run_until_cancelled(ready).await.unwrap_or(Ok(()));
        done.inspect_err(|_| stop.cancel())
    };
    let worker = Program::own();
    let served = server::serve(
        deployment,
        &config.server,
        &config.auth,
        (&config.media, &worker, console),
        listener,
        stop.clone(),
    );
    let (ready, served) = tokio::join!(ready, served);
    ready.and(served)
}

async fn listen(address: &ListenAddress) -> anyhow::Result<TcpListener> {
    let hint = || {
        format!("cannot listen on {address}; choose another address with server.listen or --listen")
    };
    address.bind().await.with_context(hint)
}

fn tell(config: &Config, address: SocketAddr, deployment: &Deployment) {
    let store = &config.store;
    let objects = deployment.objects.location();
    let deployed = deployment.store.router().deployed();
    if !config.ignored.is_empty() {
        let variables = config.ignored.join(", ");
        tracing::info!(variables, "{IGNORED}");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, algorithm = config.auth.algorithm.name(), "starting");
    tracing::info!(url = %store.directory.url.redacted(), "directory");
    for shard in &store.shards {
        tracing::info!(name = %shard.name, primary = %shard.primary.redacted(), replicas = shard.replicas.len(), "shard");
    }
    tracing::info!(id = %deployed.deployment(), "deployment");
    for remark in deployed.remarks() {
        tracing::warn!("{remark}");
    }
    let archive = &config.archive;
    let schedule = if archive.schedule.is_empty() {
        "never by itself"
    } else {
        &archive.schedule
    };
    tracing::info!(%objects, after = %archive.after, schedule, time_zone = archive.time_zone, "archive");
}

/// Opens everything, with its tasks under `supervisor`; the schema is made or brought up to date first if it is SQLite. On
/// MySQL that is `backscroll migrate`'s to do, at a moment the operator chooses.
///
/// # Errors
/// When a database is not the one that its address stands for, the schema is not up to date, or the store or the object
/// store cannot be opened.
pub async fn open(config: &Config, supervisor: &Supervisor) -> anyhow::Result<Deployment> {
    if config.is_embedded() {
        let hint = || format!("cannot prepare the data in {}", config.data_dir.display());
        migrate(config, false).await.with_context(hint)?;
    }
    open_existing(config, supervisor).await
}

/// Brings the schema up to date, and makes the deployment where all databases are empty; with `dry_run`, says what that
/// would be.
///
/// # Errors
/// As [`migrate_with`].
pub async fn migrate(config: &Config, dry_run: bool) -> anyhow::Result<Migrated> {
    let hook = failpoint::making()?;
    Ok(migrate_with(&config.store, dry_run, hook.as_ref()).await?)
}

/// Opens what is there already, and changes nothing about the databases.
///
/// # Errors
/// As [`open`].
pub async fn open_existing(config: &Config, supervisor: &Supervisor) -> anyhow::Result<Deployment> {
    let opened = Deployment::open(
        &config.store,
        &config.object_store,
        &config.archive,
        &config.realtime,
        &config.redis,
        supervisor,
    )
    .await;
    let error = match opened {
        Ok(deployment) => return Ok(deployment),
        Err(error) => error,
    };
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Unprepared(_)) if config.is_embedded() => Err(error.context(format!(
            "there is no data of this version in {}; start `backscroll serve` once, or import",
            config.data_dir.display()
        ))),
        _ => Err(error),
    }
}

/// Closes what a command has opened.
pub async fn close(deployment: &Deployment) {
    deployment.close(CLOSE_PATIENCE).await;
}
