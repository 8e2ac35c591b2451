//! A connection to Redis that is replaced whenever it is lost.
//!
//! A user of a line takes its current connection or does without: no use waits beyond its own deadline. Attempts to connect
//! are spread over time, so that a Redis that comes back does not meet all nodes at once. A line only leads to a primary: each
//! attempt looks the address up anew, and a server that says that it is a replica is not taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::settings::DatabaseUrl;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo as _, Pipeline,
    ProtocolVersion, PushInfo, PushKind, RedisError,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout, timeout_at};

use super::problems::{Problems, is_primary};
use crate::bus::{BusUnavailable, Problem};
use crate::metrics;

/// The wait before the second attempt to connect; each further one is at most twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// After a connection that lasted this long, the waits begin anew.
const STABLE: Duration = Duration::from_secs(10);

/// A client for `url`, or the reason why there can be none.
pub(super) fn client(url: &DatabaseUrl) -> Result<Client, String> {
    if !url.0.starts_with("redis://") {
        return Err("it does not begin with `redis://` (TLS is not supported)".to_owned());
    }
    if url.0.contains('?') {
        return Err("it has a `?`, but no options can follow the address".to_owned());
    }
    // These errors do not repeat the address, which may have a password in it.
    let problem = |error: RedisError| error.to_string();
    let info = url.0.as_str().into_connection_info().map_err(problem)?;
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp)).map_err(problem)
}

/// One connection of a line.
#[derive(Clone)]
pub(super) struct Live {
    /// The number of the connection on its line, from 1.
    pub(super) generation: u64,
    pub(super) connection: MultiplexedConnection,
    since: Instant,
}

/// A connection that is replaced whenever it is lost.
pub(super) struct Line {
    name: &'static str,
    client: Client,
    timeout: Duration,
    /// Shared by the lines of a node.
    pub(super) problems: Arc<Problems>,
    live: watch::Sender<Option<Live>>,
    /// All connections up to this one are lost.
    lost: watch::Sender<u64>,
    generation: AtomicU64,
}

impl Line {
    pub(super) fn new(
        name: &'static str,
        client: Client,
        timeout: Duration,
        problems: Arc<Problems>,
    ) -> Self {
        Self {
            name,
            client,
            timeout,
            problems,
            live: watch::Sender::new(None),
            lost: watch::Sender::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// Keeps a connection for commands, until the future is dropped.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut attempts = Attempts::default();
        loop {
            let line = Arc::downgrade(&self);
            let live = self
                .connect(&mut attempts, move |generation, info| {
                    if info.kind == PushKind::Disconnection
                        && let Some(line) = line.upgrade()
                    {
                        line.lose(generation);
                    }
                })
                .await;
            self.serve(&live).await;
        }
    }

    /// Connects, with as many attempts as it takes. `on_push` runs in the task that reads from the connection, so it must not
    /// wait.
    pub(super) async fn connect(
        &self,
        attempts: &mut Attempts,
        on_push: impl Fn(u64, PushInfo) + Clone + Send + Sync + 'static,
    ) -> Live {
        loop {
            attempts.wait().await;
            let generation = 1 + self.generation.fetch_add(1, Ordering::SeqCst);
            let on_push = on_push.clone();
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None) // ours, around all of it
                .set_response_timeout(None)
                .set_push_sender(move |info| -> Result<(), std::convert::Infallible> {
                    on_push(generation, info);
                    Ok(())
                });
            let connecting = async {
                let connecting = self
                    .client
                    .get_multiplexed_async_connection_with_config(&config);
                let mut connection = connecting.await.map_err(|error| Problem::of(&error))?;
                is_primary(&mut connection).await?;
                Ok(connection)
            };
            match timeout(self.timeout, connecting).await {
                Ok(Ok(connection)) => {
                    return Live {
                        generation,
                        connection,
                        since: Instant::now(),
                    };
                }
                Ok(Err(problem)) => self.failed(problem),
                Err(_) => self.failed(Problem::unreachable("connecting takes too long".to_owned())),
            }
        }
    }

    /// An attempt to connect, or to use the connection, has failed.
    pub(super) fn failed(&self, problem: Problem) {
        let name = self.name;
        metrics::BUS_CONNECT_FAILURES.with([name]).increment(1);
        self.problems.note(name, problem);
    }

    /// Why there is no connection.
    pub(super) fn unavailable(&self) -> BusUnavailable {
        let problem = self.problems.worst();
        BusUnavailable(problem.map_or_else(
            || "there is no connection to Redis".to_owned(),
            |problem| problem.to_string(),
        ))
    }

    /// Makes `live` the current connection until it is lost.
    pub(super) async fn serve(&self, live: &Live) {
        let name = self.name;
        metrics::BUS_CONNECTS.with([name]).increment(1);
        tracing::info!(line = name, "connected to Redis");
        self.problems.clear(name);
        self.live.send_replace(Some(live.clone()));
        let _hides = Hides(self);
        self.until_lost(live.generation).await;
        tracing::warn!(line = name, "lost the connection to Redis");
    }

    async fn until_lost(&self, generation: u64) {
        let mut lost = self.lost.subscribe();
        let _ = lost.wait_for(|lost| *lost >= generation).await; // the sender is ours
    }

    /// Gives up the connection of this generation and those before it.
    pub(super) fn lose(&self, generation: u64) {
        self.lost.send_if_modified(|lost| {
            let news = *lost < generation;
            *lost = generation.max(*lost);
            news
        });
    }

    /// Gives up the current connection.
    pub(super) fn lose_any(&self) {
        if let Some(live) = self.current() {
            self.lose(live.generation);
        }
    }

    /// The current connection.
    pub(super) fn current(&self) -> Option<Live> {
        self.live.borrow().clone()
    }

    /// Since when the current connection exists.
    pub(super) fn since(&self) -> Option<Instant> {
        self.live.borrow().as_ref().map(|live| live.since)
    }

    /// The current connection, as soon as there is one; none at `deadline`.
    pub(super) async fn current_until(&self, deadline: Instant) -> Option<Live> {
        let mut live = self.live.subscribe();
        let there_is = live.wait_for(Option::is_some);
        let found = timeout_at(deadline.into(), there_is).await.ok()?.ok()?;
        found.clone()
    }

    /// Runs `commands` on the current connection. When the answer is late the connection is kept.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
        deadline: Instant,
    ) -> Result<T, BusUnavailable> {
        let Some(mut live) = self.current() else {
            return Err(self.unavailable());
        };
        let answer = timeout_at(deadline.into(), commands.query_async(&mut live.connection));
        match answer.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if error.is_unrecoverable_error() {
                    self.lose(live.generation);
                }
                Err(BusUnavailable(error.to_string()))
            }
            Err(_) => Err(BusUnavailable("Redis does not answer in time".to_owned())),
        }
    }
}

/// Ends the current connection, also when the task is dropped.
struct Hides<'a>(&'a Line);

impl Drop for Hides<'_> {
    fn drop(&mut self) {
        self.0.live.send_replace(None);
    }
}

/// Spreads attempts to connect over time.
#[derive(Default)]
pub(super) struct Attempts {
    last: Option<Instant>,
    failures: u32,
}

impl Attempts {
    /// Waits before the next attempt.
    async fn wait(&mut self) {
        let stable = |last: &Instant| last.elapsed() >= STABLE;
        if self.last.as_ref().is_some_and(stable) {
            self.failures = 0;
        }
        if self.last.is_some() {
            let most = FIRST_WAIT
                .saturating_mul(1 << self.failures.min(10))
                .min(LONGEST_WAIT);
            sleep(most.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            self.failures = self.failures.saturating_add(1);
        }
        self.last = Some(Instant::now());
    }
}
