//! SIGTERM and SIGINT, and the longest that a stop may take.
//!
//! The first signal asks the process to stop, which it does in its own order; the second ends it at once, with status 1.
//! Whoever asks for the stop, it has to be over within a time: then the process ends with status [`STUCK`] and says in the
//! log which tasks did not. All of this is in a thread with a runtime of its own, so that it works also while every other
//! thread stands still.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use backscroll_shard::tasks::{Kept, Stuck, Supervisor};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// The status with which the process ends when something kept it from stopping.
pub const STUCK: u8 = 5;

/// Something did not end when the process was told to stop.
#[derive(Debug, thiserror::Error)]
#[error("stopped, but not in order: {0} did not end in time; what was acknowledged is stored")]
pub struct StoppedLate(pub Stuck);

/// Catches the signals, for the life of the process. The token is cancelled by the first one, or by the service when it
/// stops by itself; the process ends at the latest `longest` after that.
///
/// # Errors
/// When the signals cannot be caught.
pub fn stop_on_signals(
    supervisor: &Supervisor,
    longest: Duration,
) -> anyhow::Result<CancellationToken> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of signals")?;
    let stop = CancellationToken::new();
    {
        let _context = runtime.enter();
        let signals = Kept::new(Signals::catch()?);
        let (stop, never) = (stop.clone(), CancellationToken::new());
        let tasks = supervisor.group();
        tasks.supervise("signals", &never, move || {
            watch(signals.clone(), stop.clone())
        });
    }
    let limit = limit(supervisor.clone(), stop.clone(), longest);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(limit))
        .context("cannot start the thread of signals")?;
    Ok(stop)
}

/// The signals that are caught, and whether there was one.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    had_first: bool,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?,
            had_first: false,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn watch(signals: Kept<Signals>, stop: CancellationToken) {
    let mut signals = signals.hold().await;
    loop {
        let signal = signals.next().await;
        if std::mem::replace(&mut signals.had_first, true) {
            tracing::warn!(signal, "stopping at once");
            exit(1);
        }
        tracing::info!(
            signal,
            "asked to stop; the next signal ends the process at once"
        );
        stop.cancel();
    }
}

async fn limit(supervisor: Supervisor, stop: CancellationToken, longest: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(longest).await;
    let stuck = supervisor.stuck();
    tracing::error!(%stuck, ?longest, "the process did not stop in time and is ended; these tasks had been told to end");
    exit(STUCK);
}

fn exit(status: impl Into<i32> + fmt::Debug) -> ! {
    telemetry::flush();
    std::process::exit(status.into())
}
