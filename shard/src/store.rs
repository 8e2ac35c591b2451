//! The store's facade: every operation, authorised, on the shard that owns it.
//!
//! Each call names its caller; membership and roles are checked in the transaction that does the work (INV-MEMBER), not
//! at an edge that might be passed by. Calls wait no longer than the caller's deadline.

mod attended;
mod batches;
mod blocks;
mod changes;
mod contacts;
mod conversations;
mod creating;
mod dumps;
mod followed;
mod lists;
mod live;
mod media;
mod members;
mod messages;
mod notifications;
mod operator;
mod pins;
mod processing;
mod receipts;
mod relaying;
mod reports;
mod search;
mod threads;

pub use live::Standing;
pub use media::MediaQuota;
pub use notifications::Notified;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::change::{Change, Changed};
use crate::cold_tier::ColdTier;
use crate::commit_event::CommitListener;
use crate::db::Dialect;
use crate::error::{Error, Result};
use crate::guard::{Action, Charge, Guard};
use crate::identity::{self, Deployed};
use crate::ids::{ConversationId, Incarnation, ShardName, UserId};
use crate::lane::{Outcome, Work};
use crate::map::{Assignment, ShardMap};
use crate::metrics;
use crate::model::Caller;
use crate::node::Shard;
use crate::owned::{OwnedTransaction, WriteScope};
use crate::reports::Reports;
use crate::routing::Router;
use crate::sanctions::Sanctions;
use crate::search::SearchTurns;
use crate::settings::StoreSettings;
use crate::tasks::{Supervisor, TaskGroup};
use crate::turns::Turns;

/// After how many intervals of looking for a new map the databases are asked which they are.
const IDENTIFY_EVERY: u32 = 10;

/// Why a deletion is refused.
const HELD: &str =
    "the conversation is under a legal hold; nothing in it can be deleted until that is lifted";

/// Conversations on their shards. One per process; cheap to share.
pub struct Store {
    router: Arc<Router>,
    attended: Arc<attended::Attended>,
    cold: Arc<dyn ColdTier>,
    listener: Arc<dyn CommitListener>,
    followed: followed::Followed,
    turns: Arc<Turns>,
    sanctions: Arc<Sanctions>,
    audit: Audit,
    reports: Arc<Reports>,
    searches: SearchTurns,
    guard: Guard,
    writers: TaskGroup,
    background: TaskGroup,
    closing: CancellationToken,
}

/// On whose behalf a conversation is changed.
#[derive(Clone, Copy)]
enum By<'a> {
    /// A member, who has to be one then.
    Member(&'a Caller),
    /// The server itself, until this deadline.
    Server(Instant),
}

impl By<'_> {
    fn deadline(self) -> Instant {
        match self {
            Self::Member(caller) => caller.deadline,
            Self::Server(deadline) => deadline,
        }
    }
}

impl Store {
    /// Sets the gauges of the shards; to be called when metrics are asked for.
    pub fn measure(&self) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::SEARCHES.set(self.searches.number() as f64);
        for shard in self.router.shards() {
            let name = shard.name().to_string();
            let (open, idle) = shard.primary().connections();
            for (state, connections) in [("used", open.saturating_sub(idle)), ("idle", idle)] {
                let gauge = metrics::DATABASE_CONNECTIONS.with([name.clone(), state.to_owned()]);
                gauge.set(f64::from(connections));
            }
            for (what, takes) in [
                ("reads", shard.takes_reads()),
                ("writes", shard.takes_writes()),
            ] {
                let gauge = metrics::SHARD_TAKES.with([name.clone(), what.to_owned()]);
                gauge.set(f64::from(u8::from(takes)));
            }
            if let Ok(lanes) = self.attended.lanes(shard) {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                metrics::WRITE_QUEUE_MESSAGES
                    .with([name])
                    .set(lanes.queued() as f64);
            }
        }
    }

    /// Opens the directory and every shard's pools, and starts the write lanes and the relays under `supervisor`. A shard
    /// that is down does not fail it.
    ///
    /// # Errors
    /// As [`identity::find`]; when an address cannot be understood.
    pub async fn open(
        settings: &StoreSettings,
        cold: Arc<dyn ColdTier>,
        listener: Arc<dyn CommitListener>,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>> {
        let deployed = identity::find(settings).await?;
        Self::of(settings, deployed, cold, listener, supervisor)
    }

    /// The same for a deployment that was found already.
    ///
    /// # Errors
    /// When an address cannot be understood.
    pub fn of(
        settings: &StoreSettings,
        deployed: Deployed,
        cold: Arc<dyn ColdTier>,
        listener: Arc<dyn CommitListener>,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>> {
        let router = Arc::new(Router::of(settings, deployed)?);
        let (writers, background) = (supervisor.group(), supervisor.group());
        let closing = CancellationToken::new();
        let attended =
            attended::Attended::new(&router, &listener, (&writers, &background), &closing);
        attended.start();
        let attended = Arc::new(attended);
        let (watched, begun, stop) = (router.clone(), attended.clone(), closing.clone());
        background.supervise("map-refresh", &closing, move || {
            watch_directory(watched.clone(), begun.clone(), stop.clone())
        });
        let (watched, stop) = (router.clone(), closing.clone());
        background.supervise("identity-check", &closing, move || {
            watch_identities(watched.clone(), stop.clone())
        });
        let sanctions = Arc::new(Sanctions::new(&router));
        let (watched, stop) = (sanctions.clone(), closing.clone());
        // Twice in the time in which a node learns of a new map: a sanction holds everywhere within it.
        let interval = settings.directory.refresh_interval.0 / 2;
        background.supervise("sanctions", &closing, move || {
            watched.clone().watch(interval, stop.clone())
        });
        let audit = Audit::new(&router);
        let reports = Arc::new(Reports::new(&router));
        let (kept, stop) = (reports.clone(), closing.clone());
        background.supervise("report-evidence", &closing, move || {
            kept.clone().forget_in_time(stop.clone())
        });
        Ok(Arc::new(Self {
            router,
            attended,
            cold,
            listener,
            followed: followed::Followed::default(),
            turns: Turns::new(settings.limits.reads_at_once as usize),
            sanctions,
            audit,
            reports,
            searches: SearchTurns::new(settings.search.at_once),
            guard: Guard::new(&settings.guard),
            writers,
            background,
            closing,
        }))
    }

    /// Takes nothing new, commits and answers what was accepted, relays what was marked, and closes the connections; what
    /// is not done by `deadline` is left to the next process, which finds it in the databases.
    pub async fn close(&self, deadline: Instant) {
        self.attended.end();
        let finish = async {
            self.writers.finish(deadline).await;
            self.closing.cancel();
            self.background.finish(deadline).await;
            for shard in self.router.shards() {
                shard.close().await;
            }
            self.router.directory().close().await;
        };
        if tokio::time::timeout_at(deadline.into(), finish)
            .await
            .is_err()
        {
            self.closing.cancel();
            tracing::warn!(
                "not everything was finished by the deadline; what was acknowledged is stored"
            );
        }
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        self.router.settings()
    }

    /// Which reads of which users are worked on: a door waits for a turn before it reads for a user, and keeps it until the answer is
    /// made.
    #[must_use]
    pub fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    /// What moderators imposed on users. A door asks it for every request and connection; what others would see is asked for by the
    /// store itself.
    #[must_use]
    pub fn sanctions(&self) -> &Arc<Sanctions> {
        &self.sanctions
    }

    /// Who did what to whom.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// What readers reported to moderators.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Charges an action to its user's budgets, and waits for its time when that is near.
    async fn act(&self, action: Action, caller: &Caller) -> Result<Charge<'_>> {
        let charge = self.charge(action, caller)?;
        charge.wait().await;
        Ok(charge)
    }

    /// The same for callers that wait by themselves. A user that a sanction forbids it is charged nothing.
    fn charge(&self, action: Action, caller: &Caller) -> Result<Charge<'_>> {
        self.sanctions.may_speak(&caller.user)?;
        self.guard.charge(action, &caller.user)
    }

    /// Most bytes of messages in an answer.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.settings().limits.answer_bytes as usize
    }

    /// The supervisor of its tasks.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        self.background.supervisor()
    }

    /// The map as this process knows it.
    #[must_use]
    pub fn map(&self) -> Arc<ShardMap> {
        self.router.map()
    }

    /// Tells every new map.
    #[must_use]
    pub fn map_changes(&self) -> tokio::sync::watch::Receiver<Arc<ShardMap>> {
        self.router.directory().changes()
    }

    /// The router, for operators' jobs.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Makes one change to a conversation by one of its members, and tells what was committed. `work` may run several times,
    /// each time in a new transaction.
    async fn change<T, F>(
        &self,
        caller: &Caller,
        id: ConversationId,
        work: impl Fn(Change) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Changed<T>>>,
    {
        self.change_by(By::Member(caller), id, work).await
    }

    /// The same, by a member or by the server itself.
    async fn change_by<T, F>(
        &self,
        by: By<'_>,
        id: ConversationId,
        work: impl Fn(Change) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Changed<T>>>,
    {
        let work = &work;
        let deadline = by.deadline();
        let user = match by {
            By::Member(caller) => Some(&caller.user),
            By::Server(_) => None,
        };
        let change = |shard: Arc<Shard>, assignment: Assignment| async move {
            if self.closing.is_cancelled() {
                return Err(Error::Closing);
            }
            let transaction = |rows: OwnedTransaction<'static>| async move {
                work(Change::begin(rows, id, user).await?).await
            };
            let scope = WriteScope::conversation(&assignment, id);
            let changed = shard.write(&scope, deadline, transaction).await?;
            if !changed.events.is_empty() {
                self.hint(&shard, id);
                self.listener.committed(changed.events);
            }
            Ok(changed.value)
        };
        self.router.call(id.owner_key(), deadline, change).await
    }

    /// Work for a write lane.
    async fn submit(&self, caller: &Caller, id: ConversationId, work: Work) -> Result<Outcome> {
        let work = &work;
        self.router
            .call_with(
                (id.owner_key(), work.bytes()),
                caller.deadline,
                |shard, assignment| async move {
                    if shard.refuses_writes() {
                        return Err(Error::ShardUnavailable(shard.name().clone()));
                    }
                    let lanes = self.attended.lanes(&shard)?;
                    lanes
                        .submit(
                            &assignment,
                            (id, &caller.user),
                            work.clone(),
                            caller.deadline,
                        )
                        .await
                },
            )
            .await
    }

    /// The state of every dependency, each asked for at most `patience`.
    pub async fn health(&self, patience: Duration) -> Health {
        let directory = check(patience, self.router.directory().ping());
        let shards = self
            .router
            .shards()
            .map(|shard| self.shard_health(shard, patience));
        let (directory, shards) =
            futures_util::join!(directory, futures_util::future::join_all(shards));
        Health { directory, shards }
    }

    async fn shard_health(&self, shard: &Arc<Shard>, patience: Duration) -> ShardHealth {
        let primary = check(patience, shard.primary().ping(Instant::now() + patience));
        let replicas = futures_util::future::join_all(
            shard
                .replicas()
                .map(|replica| check(patience, replica.ping(Instant::now() + patience))),
        );
        let writes = check(
            patience,
            shard.primary().try_write(Instant::now() + patience),
        );
        let (primary, writes, replicas) = futures_util::join!(primary, writes, replicas);
        let (connections, idle_connections) = shard.primary().connections();
        ShardHealth {
            name: shard.name().clone(),
            kind: match shard.primary().dialect() {
                Dialect::MySql => "mysql",
                Dialect::Sqlite => "sqlite",
            },
            takes_reads: primary.ok && shard.takes_reads(),
            takes_writes: writes.ok && shard.takes_writes(),
            primary,
            writes,
            replicas,
            incarnation: shard.primary().incarnation(),
            connections,
            idle_connections,
            queued_writes: self.attended.lanes(shard).map_or(0, |lanes| lanes.queued()),
            ranges: self.map().ranges_of(shard.name()).cloned().collect(),
        }
    }

    fn key(&self, user: &UserId) -> Result<crate::ids::UserKey> {
        self.router.key(user)
    }
}

/// Looks for a new map and for new shards at the configured interval, until `closing`.
async fn watch_directory(
    router: Arc<Router>,
    attended: Arc<attended::Attended>,
    closing: CancellationToken,
) {
    let interval = router.settings().directory.refresh_interval.0;
    let mut reachable = true;
    while closing
        .run_until_cancelled(tokio::time::sleep(interval))
        .await
        .is_some()
    {
        let admitted = router.admit().await;
        attended.start();
        let outcome = admitted.and(router.refresh(&router.map()).await);
        if outcome.is_ok() != reachable {
            reachable = outcome.is_ok();
            match outcome {
                Ok(()) => tracing::info!("the directory is back"),
                Err(error) => {
                    tracing::warn!(%error, "the directory is away; going on with the map as it was")
                }
            }
        }
    }
}

/// Asks every database now and then whether it still is the one that its address stands for, until `closing`.
async fn watch_identities(router: Arc<Router>, closing: CancellationToken) {
    let interval = router.settings().directory.refresh_interval.0 * IDENTIFY_EVERY;
    while closing
        .run_until_cancelled(tokio::time::sleep(interval))
        .await
        .is_some()
    {
        for shard in router.shards() {
            let asked = shard.primary().ping(Instant::now() + interval).await;
            if let Err(Error::WrongDatabase(why)) = asked {
                tracing::error!(shard = %shard.name(), why, "the shard's address leads to another database");
            }
        }
    }
}

async fn check(patience: Duration, ping: impl Future<Output = Result<()>>) -> DependencyHealth {
    let started = Instant::now();
    let outcome = tokio::time::timeout(patience, ping)
        .await
        .unwrap_or(Err(Error::DeadlineExceeded));
    DependencyHealth {
        ok: outcome.is_ok(),
        wrong_database: matches!(outcome, Err(Error::WrongDatabase(_))),
        error: outcome.err().map(|error| error.to_string()),
        latency_ms: started.elapsed().as_secs_f64() * 1e3,
    }
}

/// The state of every dependency.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The directory's database.
    pub directory: DependencyHealth,
    /// The shards, by name.
    pub shards: Vec<ShardHealth>,
}

/// Whether a database answers. The error is for operators: it may name hosts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DependencyHealth {
    /// It answered.
    pub ok: bool,
    /// It answered, and is not the database that its address stands for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wrong_database: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long the answer took, in milliseconds.
    pub latency_ms: f64,
}

/// The state of a shard.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardHealth {
    /// Its name.
    pub name: ShardName,
    /// `mysql` (also MariaDB) or `sqlite`.
    pub kind: &'static str,
    /// Its primary answers.
    pub primary: DependencyHealth,
    /// Its primary takes writes.
    pub writes: DependencyHealth,
    /// How many databases have been the shard so far, this one included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// Its replicas, in the order of the configuration.
    pub replicas: Vec<DependencyHealth>,
    /// Requests that read are let through. Also false after the latest ones failed.
    pub takes_reads: bool,
    /// Requests that write are let through. Also false after the latest ones failed, whatever the reason.
    pub takes_writes: bool,
    /// Open connections to the primary.
    pub connections: u32,
    /// Those of them that are idle.
    pub idle_connections: u32,
    /// Writes waiting in its lanes.
    pub queued_writes: u64,
    /// The ranges it owns.
    pub ranges: Vec<Assignment>,
}
