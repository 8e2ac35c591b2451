//! Connections that are in no namespace: they are closed after a while (INV-BOUND).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use backscroll_shard::tasks::TaskGroup;
use engineioxide::{DisconnectReason, Socket};
use tokio_util::sync::CancellationToken;

/// The state of a connection.
pub trait InNamespaces: Default + Send + Sync + 'static {
    /// Whether the client is in no namespace.
    fn is_idle(&self) -> bool;
}

type Watched<C> = VecDeque<(Instant, Weak<Socket<C>>)>;

/// Connections that are, or were, in no namespace, in the order in which they are looked at.
pub struct IdleConnections<C: InNamespaces> {
    timeout: Duration,
    watched: Mutex<Watched<C>>,
}

impl<C: InNamespaces> IdleConnections<C> {
    /// Closes connections that are in no namespace for `timeout`, until `closing`.
    pub(super) fn start(
        timeout: Duration,
        tasks: &TaskGroup,
        closing: CancellationToken,
    ) -> Arc<Self> {
        let idle = Arc::new(Self {
            timeout,
            watched: Mutex::default(),
        });
        let sweeping = Arc::downgrade(&idle);
        let every = (timeout / 4).min(Duration::from_secs(1));
        let stop = &closing.clone();
        tasks.supervise("socket.io-sweep", stop, move || {
            Self::sweep_every(every, sweeping.clone(), closing.clone())
        });
        idle
    }

    async fn sweep_every(every: Duration, idle: Weak<Self>, closing: CancellationToken) {
        let pause = || closing.run_until_cancelled(tokio::time::sleep(every));
        while pause().await.is_some() {
            match idle.upgrade() {
                Some(idle) => idle.sweep(),
                None => return closing.cancelled().await,
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched<C>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a connection once it may have been in no namespace for too long.
    pub(super) fn add(&self, engine: &Arc<Socket<C>>) {
        let due = Instant::now() + self.timeout;
        self.watched().push_back((due, Arc::downgrade(engine)));
    }

    fn sweep(&self) {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut watched = self.watched();
            let n = watched.partition_point(|(due, _)| *due <= now);
            watched.drain(..n).collect()
        };
        for engine in due.into_iter().filter_map(|(_, engine)| engine.upgrade()) {
            if engine.data.is_idle() {
                engine.close(DisconnectReason::TransportClose);
            }
        }
    }
}
