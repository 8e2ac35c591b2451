//! The bus and the roster of several nodes, in a Redis that they share.
//!
//! A push goes to this node's receiver at once and then, over Redis's Pub/Sub, to the nodes that have subscribed to its
//! topic. There are no pattern subscriptions: a node receives only the topics of its own sessions. Each process signs its
//! pushes, and ignores those that come back to it. The latest changes of each conversation also stay in a list (its window)
//! for some minutes, so that a crowd of reconnecting clients does not read them all from the databases.
//!
//! There are three connections, each replaced whenever it is lost: one that receives, one that publishes and one for
//! commands, whose large answers thus delay no push.
//!
//! | module | contents |
//! |---|---|
//! | `line` | a connection that is replaced whenever it is lost |
//! | `listen` | subscriptions, and the pushes that arrive |
//! | `publish_queue` | pushes to publish, and the task that publishes them |
//! | `pulse`, `watchdog` | the proof that pushes arrive, and what happens without it |
//! | `problems` | what Redis refuses, and what to do about it |
//! | `bus`, `roster` | the two seams |
//! | `names`, `wire` | names of channels and keys, and their contents |
//! | `running` | the tasks |
//!
//! - INV-PUSH: Redis may lose anything. After each reconnect the subscriptions are replayed, and then the receiver learns
//!   that it was interrupted and compares its revs with the log. An open connection proves nothing: a canary goes around
//!   every `redis.canary_interval`, its absence shows in [`Bus::silence`](crate::bus::Bus::silence), and in the end makes
//!   the watchdog replace all connections. A replica's answers prove nothing either: the connections to a server that is no
//!   longer the primary are given up, and [`Bus::problem`](crate::bus::Bus::problem) says what a server refuses.
//! - INV-BOUND: publishing never waits. The queue is bounded by `redis.queue_pushes` and `redis.queue_bytes`, no push in it
//!   gets older than `redis.timeout`, and dropped pushes are counted by reason. Every answer has a deadline, and retries
//!   have a back-off. There are as many subscriptions as topics in the hub.
//!
//! A crash leaves in Redis the windows, the users and the canary of the process, which expire, and the process's name, which the next
//! node that reads the names removes. Without Redis a node still delivers its own pushes.

mod bus;
mod line;
mod listen;
mod names;
mod problems;
mod publish_queue;
mod pulse;
mod roster;
mod running;
mod settings;
mod watchdog;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use backscroll_shard::tasks::{Kept, Supervisor};

pub use self::bus::RedisBus;
pub use self::roster::RedisRoster;
pub use self::settings::RedisSettings;

use self::line::Line;
use self::listen::Listener;
use self::names::Names;
use self::problems::Problems;
use self::publish_queue::{PublishQueue, Publishing};
use self::pulse::Pulse;
use self::running::Running;
use crate::bus::Problem;

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

impl Redis {
    /// Starts to connect `node`, and goes on trying in tasks of `supervisor`: it does not wait for Redis. Call it in a Tokio
    /// runtime.
    ///
    /// # Errors
    /// When `redis.url` is missing or malformed.
    pub fn open(
        settings: &RedisSettings,
        node: &str,
        supervisor: &Supervisor,
    ) -> Result<Self, BadAddress> {
        let Some(url) = &settings.url else {
            return Err(BadAddress("is not set".to_owned()));
        };
        let client = line::client(url).map_err(BadAddress)?;
        let problems = Arc::new(Problems::default());
        let line = |name| Line::new(name, client.clone(), settings.timeout.0, problems.clone());
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
        let (queue, queued) = PublishQueue::new(settings);

        let running = Arc::new(Running::new(supervisor));
        for (name, line) in [
            ("redis-publish-line", &publishing),
            ("redis-command-line", &commands),
        ] {
            let line = Arc::clone(line);
            running.supervise(name, move || Arc::clone(&line).keep());
        }
        let listening = Arc::clone(&listener);
        running.supervise("redis-listen", move || Arc::clone(&listening).run());
        let delivery = (
            listener.clone(),
            queue.clone(),
            (publishing.clone(), commands.clone()),
            settings.clone(),
        );
        running.supervise("redis-watch-delivery", move || {
            let (listener, queue, (publishing, commands), settings) = delivery.clone();
            watchdog::watch_delivery(listener, queue, publishing, commands, settings)
        });
        let server = (
            listener.clone(),
            (publishing.clone(), commands.clone()),
            settings.clone(),
        );
        running.supervise("redis-watch-server", move || {
            let (listener, (publishing, commands), settings) = server.clone();
            watchdog::watch_server(listener, publishing, commands, settings)
        });
        let published = (Kept::new(queued), publishing, settings.clone());
        let stop = running.publishing.clone();
        running.publish("redis-publish", move || {
            let (queued, line, settings) = published.clone();
            Publishing::run(queued, line, settings, stop.clone())
        });

        let bus = Arc::new(RedisBus {
            listener,
            queue,
            commands: commands.clone(),
            trim_every: match settings.window_messages as u64 {
                0 => 0,
                messages => (messages / 8).max(1),
            },
            reads: RedisBus::reads(),
            _running: running.clone(),
        });
        let roster = Arc::new(RedisRoster {
            names,
            node: format!("{node}/{origin}"),
            commands,
            lease: settings.lease.0,
            timeout: settings.timeout.0,
            complete_on: AtomicU64::new(0),
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

    /// Asks the server whether it is the primary and takes writes, until `deadline`.
    ///
    /// # Errors
    /// When it does not, or there is no connection.
    pub async fn ask(&self, deadline: Instant) -> Result<(), Problem> {
        let RedisBus {
            commands, listener, ..
        } = &*self.bus;
        let asked = async {
            let mut live = commands.current_until(deadline).await?;
            let key = listener.names.canary(&listener.origin);
            Some(problems::serves(&mut live.connection, &key, self.roster.lease).await)
        };
        let asked = tokio::time::timeout_at(deadline.into(), asked).await;
        asked.ok().flatten().unwrap_or_else(|| {
            let problem = commands.problems.worst();
            let late = || Problem::unreachable("Redis does not answer in time".to_owned());
            Err(problem.unwrap_or_else(late))
        })
    }

    /// Publishes the pushes that wait, but not beyond `deadline`, and disconnects; pushes that are given afterwards are
    /// dropped. This node's users stay online until its lease is over: a user who reconnects to another node in time is never
    /// seen offline.
    pub async fn close(&self, deadline: Instant) {
        self.running.close(deadline).await;
    }
}
