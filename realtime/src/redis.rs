//! The bus and the roster of several nodes, in a Redis that they share.
//!
//! A push goes to this node's receiver at once and then, over Redis's Pub/Sub, to the nodes that have subscribed to its
//! topic: never a pattern, so that no node hears what nobody there follows. Each process signs what it publishes, and
//! ignores what comes back to it. A conversation's latest changes are also kept for some minutes, so that a crowd that
//! reconnects does not read them all from the databases.
//!
//! There are three connections, each made anew whenever it is lost: one that hears, one that publishes and one for
//! commands, whose large answers thus delay no push.
//!
//! - INV-PUSH: Redis may lose anything. After each reconnect the subscriptions are replayed and then the receiver is
//!   told that it was interrupted, so that it compares with the log. That a connection is open proves nothing: a canary
//!   goes around every `redis.canary_interval`, its absence shows in [`Bus::silence`](crate::bus::Bus::silence), and in
//!   the end makes everything start over.
//! - INV-BOUND: publishing never waits. The queue has `redis.queue_pushes` and `redis.queue_bytes`, nothing in it gets
//!   older than `redis.timeout`, and what is dropped is counted by reason. Every answer has a deadline, and retries have
//!   a back-off. Subscriptions are as many as the hub's.
//!
//! A crash leaves in Redis the windows, which expire, the users of the process, which expire as well, and its name, which
//! the next reader of the nodes removes. Without Redis a node goes on serving what it publishes itself.

mod bus;
mod line;
mod listen;
mod names;
mod outbox;
mod pulse;
mod roster;
mod settings;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::bus::RedisBus;
pub use self::roster::RedisRoster;
pub use self::settings::RedisSettings;

use self::line::Line;
use self::listen::Listener;
use self::names::Names;
use self::outbox::Outbox;
use self::pulse::Pulse;

/// Why [`Redis::open`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redis.url: {0}")]
pub struct BadAddress(String);

/// A node's connections to Redis.
pub struct Redis {
    bus: Arc<RedisBus>,
    roster: Arc<RedisRoster>,
    running: Arc<Running>,
}

/// The tasks behind bus and roster. They end when nobody has either.
pub(crate) struct Running {
    publishing: CancellationToken,
    published: TaskTracker,
    rest: CancellationToken,
    tasks: TaskTracker,
    _guards: [DropGuard; 2],
}

impl Running {
    fn new() -> Self {
        let (publishing, rest) = (CancellationToken::new(), CancellationToken::new());
        Self {
            _guards: [publishing.clone().drop_guard(), rest.clone().drop_guard()],
            publishing,
            published: TaskTracker::new(),
            rest,
            tasks: TaskTracker::new(),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let rest = self.rest.clone();
        self.tasks.spawn(async move {
            rest.run_until_cancelled(task).await;
        });
    }
}

impl Redis {
    /// Begins to connect `node`, and goes on trying: it does not wait until there is a Redis. Call it in a Tokio runtime.
    ///
    /// # Errors
    /// When there is no address that could be right.
    pub fn open(settings: &RedisSettings, node: &str) -> Result<Self, BadAddress> {
        let Some(url) = &settings.url else {
            return Err(BadAddress("there is none".to_owned()));
        };
        let client = line::client(url).map_err(BadAddress)?;
        let line = |name| Line::new(name, client.clone(), settings.timeout.0);
        let (publishing, commands) = (Arc::new(line("publish")), Arc::new(line("commands")));
        let names = Names::new(&settings.prefix);
        let origin = wire::new_origin();
        let listener = Arc::new(Listener::new(
            names.clone(),
            origin.clone(),
            line("listen"),
            Arc::new(Pulse::new(origin.clone())),
            settings.timeout.0,
        ));
        let (outbox, waiting) = Outbox::new(settings);

        let running = Arc::new(Running::new());
        running.spawn(publishing.clone().keep());
        running.spawn(commands.clone().keep());
        running.spawn(listener.clone().run());
        running.spawn(pulse::run(
            listener.clone(),
            outbox.clone(),
            publishing.clone(),
            commands.clone(),
            settings.clone(),
        ));
        running.spawn(pulse::ask(commands.clone(), settings.clone()));
        let publish = waiting.publish(publishing, settings.clone(), running.publishing.clone());
        running.published.spawn(publish);

        let bus = Arc::new(RedisBus {
            listener,
            outbox,
            commands: commands.clone(),
            cut_every: match settings.window_messages as u64 {
                0 => 0,
                messages => (messages / 8).max(1),
            },
            recent: RedisBus::reads(),
            _running: running.clone(),
        });
        let roster = Arc::new(RedisRoster {
            names,
            node: format!("{node}/{origin}"),
            commands,
            lease: settings.lease.0,
            timeout: settings.timeout.0,
            told_by: AtomicU64::new(0),
            _running: running.clone(),
        });
        Ok(Self {
            bus,
            roster,
            running,
        })
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> Arc<RedisBus> {
        self.bus.clone()
    }

    /// The roster.
    #[must_use]
    pub fn roster(&self) -> Arc<RedisRoster> {
        self.roster.clone()
    }

    /// Publishes what waits, which takes at most some times `redis.timeout`, and disconnects. This node's users stay online
    /// until the lease is over: those who reconnect to another node in time never were away.
    pub async fn close(&self) {
        self.running.publishing.cancel();
        self.running.published.close();
        self.running.published.wait().await;
        self.running.rest.cancel();
        self.running.tasks.close();
        self.running.tasks.wait().await;
    }
}
