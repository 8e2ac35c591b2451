//! One shard: its databases, and what is known of their health.
//!
//! Shards share nothing, so one that is dead or slow holds up only the requests that need it, and those only until that is
//! known: then they fail at once, with a time to come back. What can fail by itself is judged by itself:
//!
//! - *reads* and *writes* have a circuit each: a primary that refuses writes goes on answering reads;
//! - *new connections* are the pool's affair ([`crate::db`]): those that are open serve on while none can be opened;
//! - each *replica* that is slow to answer once is passed over, until it has answered a probe that no caller waits for.
//!
//! [`Shard::tend`] does what nobody should wait for. A crash leaves nothing behind: all of this is memory.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::circuit::Circuit;
use crate::db::identity::Identity;
use crate::db::{Connection, Database, Failure, Observer};
use crate::error::{Error, Result};
use crate::ids::ShardName;
use crate::latencies::Latencies;
use crate::metrics;
use crate::settings::{PoolSettings, ShardSettings, WriteSettings};

/// How long a page waits for a replica before the primary answers, and how long it may take to be asked again.
const REPLICA_PATIENCE: Duration = Duration::from_millis(250);
/// How often a shard is tended.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// Failures are logged at most so often; those in between are counted.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// A shard's databases.
#[derive(Debug)]
pub struct Shard {
    name: ShardName,
    primary: Database,
    replicas: Arc<[Replica]>,
    next_replica: AtomicUsize,
    max_retries: u32,
    reads: Arc<Watch>,
    writes: Arc<Watch>,
    failures: Arc<FailureLog>,
    calls: Arc<Latencies>,
}

#[derive(Debug)]
struct Replica {
    database: Database,
    /// It was slow to answer, or did not.
    is_passed_over: AtomicBool,
}

/// Statements that were run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    /// By this process.
    pub all: u64,
    /// Through this handle.
    pub own: u64,
}

impl Shard {
    /// Prepares the pools of the shard that its database, and those of its replicas, have to say they are; nothing is connected
    /// yet.
    ///
    /// # Errors
    /// When an address cannot be understood.
    pub fn open(
        shard: &ShardSettings,
        pool: &PoolSettings,
        write: &WriteSettings,
        identity: Identity,
    ) -> Result<Self> {
        let replica = |url| {
            Ok(Replica {
                database: Database::open_replica(url, pool, identity.clone())?,
                is_passed_over: AtomicBool::new(false),
            })
        };
        let failures = Arc::new(FailureLog::new(shard.name.clone()));
        let (all, own) = (Arc::default(), Arc::default());
        let watch = |work| {
            Arc::new(Watch {
                work,
                circuit: Arc::new(Circuit::new(pool.breaker_failures, pool.breaker_cooldown.0)),
                failures: failures.clone(),
                all: Arc::clone(&all),
                own: Arc::clone(&own),
            })
        };
        let replicas = shard.replicas.iter().map(replica).collect::<Result<_>>()?;
        Ok(Self {
            name: shard.name.clone(),
            replicas,
            primary: Database::open(&shard.primary, pool, write.lanes, identity)?,
            next_replica: AtomicUsize::new(0),
            max_retries: write.max_retries,
            reads: watch(Work::Reads),
            writes: watch(Work::Writes),
            failures,
            calls: Arc::default(),
        })
    }

    /// The same databases, through a handle whose own statements are counted separately: for a job that has to know how busy
    /// others keep them.
    #[must_use]
    pub fn with_separate_statement_count(&self) -> Self {
        let own = Arc::default();
        let separate = |watch: &Watch| {
            Arc::new(Watch {
                own: Arc::clone(&own),
                ..watch.clone()
            })
        };
        Self {
            name: self.name.clone(),
            primary: self.primary.clone(),
            replicas: self.replicas.clone(),
            next_replica: AtomicUsize::new(0),
            max_retries: self.max_retries,
            reads: separate(&self.reads),
            writes: separate(&self.writes),
            failures: self.failures.clone(),
            calls: self.calls.clone(),
        }
    }

    /// Statements that were run on the primary so far, by this process and through this handle.
    #[must_use]
    pub fn statements(&self) -> Statements {
        Statements {
            all: self.reads.all.load(Ordering::Relaxed),
            own: self.reads.own.load(Ordering::Relaxed),
        }
    }

    /// A caller's call that began then is over.
    pub(crate) fn called(&self, begun: Instant) {
        self.calls.record(begun);
    }

    /// The 99 % quantile of how long this node's callers waited for the shard in the last ten seconds; none where there were few.
    #[must_use]
    pub fn foreground_p99(&self) -> Option<Duration> {
        self.calls.p99()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ShardName {
        &self.name
    }

    /// How often a transaction is run again that met others.
    pub(crate) fn max_retries(&self) -> u32 {
        self.max_retries
    }

    /// Where it takes writes.
    #[must_use]
    pub fn primary(&self) -> &Database {
        &self.primary
    }

    /// Its read replicas.
    pub fn replicas(&self) -> impl Iterator<Item = &Database> {
        self.replicas.iter().map(|replica| &replica.database)
    }

    /// Whether reads are let through, as far as the latest ones tell.
    #[must_use]
    pub fn takes_reads(&self) -> bool {
        self.reads.circuit.is_closed()
    }

    /// Whether writes are let through, as far as the latest ones tell.
    #[must_use]
    pub fn takes_writes(&self) -> bool {
        self.writes.circuit.is_closed()
    }

    /// Whether a write would fail at once, because the shard is known to refuse them.
    #[must_use]
    pub fn refuses_writes(&self) -> bool {
        self.writes.circuit.is_open()
    }

    /// A connection for reading, until `deadline`.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`] at once while reads are known to fail, or when no connection can be had.
    pub async fn reader(&self, deadline: Instant) -> Result<Connection> {
        self.admit(&self.reads)?;
        self.observed(self.primary.reader(deadline).await, &self.reads)
    }

    /// A connection for a transaction, until `deadline`; see [`Shard::transaction`].
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`] at once while writes are known to fail, or when no connection can be had.
    pub(crate) async fn writer(&self, deadline: Instant) -> Result<Connection> {
        self.admit(&self.writes)?;
        self.observed(self.primary.writer(deadline).await, &self.writes)
    }

    /// The same, and the connection is opened now, after another one failed.
    ///
    /// # Errors
    /// As [`Shard::writer`].
    pub(crate) async fn new_writer(&self, deadline: Instant) -> Result<Connection> {
        self.observed(self.primary.new_writer(deadline).await, &self.writes)
    }

    /// A connection for a write lane, until `deadline`.
    ///
    /// # Errors
    /// When none can be had; [`Error::ShardUnavailable`].
    pub(crate) async fn lane(&self, deadline: Instant) -> Result<Connection> {
        self.observed(self.primary.lane(deadline).await, &self.writes)
    }

    /// Lets a write through, unless writes are known to fail; the one that tries whether they still do, too.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub(crate) fn admit_write(&self) -> Result<()> {
        self.admit(&self.writes)
    }

    fn admit(&self, watch: &Watch) -> Result<()> {
        if watch.circuit.admits() {
            Ok(())
        } else {
            Err(Error::ShardUnavailable(self.name.clone()))
        }
    }

    fn observed(&self, acquired: Result<Connection>, watch: &Arc<Watch>) -> Result<Connection> {
        match acquired {
            Ok(connection) => Ok(connection.observed_by(watch.clone())),
            Err(Error::DatabaseUnavailable(words)) => {
                // That says nothing about what those connections do that are open.
                self.failures.note("connecting", &words);
                Err(Error::ShardUnavailable(self.name.clone()))
            }
            Err(Error::WrongDatabase(why)) => {
                watch.circuit.failed();
                self.failures.note("connecting", &why);
                Err(Error::ShardUnavailable(self.name.clone()))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks a replica, each in turn. None when there is none that answers at once, or when `ask` gives none.
    pub(crate) async fn ask_replica<T, F>(
        &self,
        deadline: Instant,
        ask: impl FnOnce(Connection) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let turn = self.next_replica.fetch_add(1, Ordering::Relaxed);
        let replica = self.replicas.get(turn.checked_rem(self.replicas.len())?)?;
        let answer = self.ask_this(replica, deadline, ask).await;
        let label = match answer {
            Some(_) => "used",
            None => "passed_over",
        };
        metrics::REPLICA_READS.with([label]).increment(1);
        answer
    }

    async fn ask_this<T, F>(
        &self,
        replica: &Replica,
        deadline: Instant,
        ask: impl FnOnce(Connection) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        if replica.is_passed_over.load(Ordering::Relaxed) {
            return None;
        }
        let answer = async {
            let limit = Instant::now() + REPLICA_PATIENCE;
            ask(replica.database.reader(limit).await?).await
        };
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(shard = %self.name, %error, "a replica is passed over until it answers again");
                replica.is_passed_over.store(true, Ordering::Relaxed);
                None
            }
            Err(_) => None, // the caller's own hurry
        }
    }

    /// Until `closing`: closes idle connections in time, tries whether connections can be opened again, and whether
    /// replicas that were passed over answer.
    pub async fn tend(&self, closing: &CancellationToken) {
        let pause = || tokio::time::sleep(TEND_EVERY);
        while closing.run_until_cancelled(pause()).await.is_some() {
            let replicas = join_all(self.replicas.iter().map(Replica::tend));
            closing
                .run_until_cancelled(futures_util::future::join(self.primary.tidy(), replicas))
                .await;
        }
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.primary.close().await;
        for replica in &*self.replicas {
            replica.database.close().await;
        }
    }
}

impl Replica {
    async fn tend(&self) {
        self.database.tidy().await;
        if self.is_passed_over.load(Ordering::Relaxed) {
            let answered = self.database.ping(Instant::now() + REPLICA_PATIENCE).await;
            self.is_passed_over
                .store(answered.is_err(), Ordering::Relaxed);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Reads,
    Writes,
}

/// Observes every statement on the connections for one kind of work: counts it, and passes its outcome to the circuit.
#[derive(Clone, Debug)]
struct Watch {
    work: Work,
    circuit: Arc<Circuit>,
    failures: Arc<FailureLog>,
    all: Arc<AtomicU64>,
    own: Arc<AtomicU64>,
}

impl Watch {
    fn count(&self) {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.own.fetch_add(1, Ordering::Relaxed);
    }
}

impl Observer for Watch {
    fn answered(&self) {
        self.count();
        if self.work == Work::Reads {
            self.circuit.succeeded();
        }
    }

    /// A database that refuses writes still takes all that comes before them: a commit is the proof.
    fn committed(&self) {
        self.circuit.succeeded();
    }

    fn failed(&self, failure: Failure, words: &str) -> Error {
        self.count();
        let shard = self.failures.shard.clone();
        match self.work {
            Work::Reads => self.failures.note("reading", words),
            Work::Writes => self.failures.note("writing", words),
        }
        // A connection that ended says nothing about the next one, which is opened or not.
        if failure != Failure::Ended {
            self.circuit.failed();
        }
        match (self.work, failure) {
            (Work::Reads, Failure::Ended | Failure::Refused) => Error::Interrupted(shard),
            _ => Error::ShardUnavailable(shard),
        }
    }
}

/// Says in the log what databases said, but not for each of a thousand requests.
#[derive(Debug)]
struct FailureLog {
    shard: ShardName,
    last: Mutex<(Option<Instant>, u64)>,
}

impl FailureLog {
    fn new(shard: ShardName) -> Self {
        Self {
            shard,
            last: Mutex::default(),
        }
    }

    fn note(&self, doing: &'static str, words: &str) {
        metrics::DATABASE_FAILURES
            .with([
                metrics::SharedString::from(self.shard.to_string()),
                metrics::SharedString::from(doing),
            ])
            .increment(1);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, unsaid) = &mut *last;
        if at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            *unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(unsaid);
        *at = Some(Instant::now());
        drop(last);
        tracing::warn!(shard = %self.shard, doing, error = words, unsaid, "the shard's database cannot do it now");
    }
}
