//! One shard: its databases, its health and its circuit breaker.
//!
//! Shards share nothing, so one that is dead or slow holds up only the requests that need it, and those only until its
//! breaker opens: then they fail at once, with a time to come back.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::{Connection, Database, Observer};
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::ids::ShardName;
use crate::settings::{PoolSettings, ShardSettings, WriteSettings};

/// A shard's databases, guarded by a circuit breaker.
#[derive(Debug)]
pub struct Shard {
    name: ShardName,
    primary: Database,
    replicas: Vec<Database>,
    next_replica: AtomicUsize,
    max_retries: u32,
    watch: Arc<Watch>,
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
        let replicas = shard
            .replicas
            .iter()
            .map(|url| Database::open(url, pool, 1, identity.clone()))
            .collect::<Result<_>>()?;
        Ok(Self {
            name: shard.name.clone(),
            primary: Database::open(&shard.primary, pool, write.lanes, identity)?,
            replicas,
            next_replica: AtomicUsize::new(0),
            max_retries: write.max_retries,
            watch: Arc::new(Watch {
                breaker: Arc::new(Breaker::new(
                    shard.name.clone(),
                    pool.breaker_failures,
                    pool.breaker_cooldown.0,
                )),
                all: Arc::default(),
                own: Arc::default(),
            }),
        })
    }

    /// The same databases, through a handle whose statements are counted apart: for a job that has to know what others do.
    #[must_use]
    pub fn apart(&self) -> Self {
        let watch = Watch {
            own: Arc::default(),
            ..Watch::clone(&self.watch)
        };
        Self {
            name: self.name.clone(),
            primary: self.primary.clone(),
            replicas: self.replicas.clone(),
            next_replica: AtomicUsize::new(0),
            max_retries: self.max_retries,
            watch: Arc::new(watch),
        }
    }

    /// Statements that were run on the primary so far, by this process and through this handle.
    #[must_use]
    pub fn statements(&self) -> Statements {
        Statements {
            all: self.watch.all.load(Ordering::Relaxed),
            own: self.watch.own.load(Ordering::Relaxed),
        }
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
    #[must_use]
    pub fn replicas(&self) -> &[Database] {
        &self.replicas
    }

    /// A replica, each in turn.
    #[must_use]
    pub fn replica(&self) -> Option<&Database> {
        let turn = self.next_replica.fetch_add(1, Ordering::Relaxed);
        self.replicas.get(turn.checked_rem(self.replicas.len())?)
    }

    /// `closed`, `open` or `half-open`.
    #[must_use]
    pub fn breaker_state(&self) -> &'static str {
        self.watch.breaker.state()
    }

    /// Whether a call would fail at once, because the shard is known to be down.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.watch.breaker.state() == "open"
    }

    /// Lets a call through unless the shard is known to be down; the one that tries whether it is back, too.
    fn admit(&self) -> Result<()> {
        if self.watch.breaker.admits() {
            Ok(())
        } else {
            Err(Error::ShardUnavailable(self.name.clone()))
        }
    }

    /// A connection for reading, until `deadline`.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`] at once while the breaker is open, or when no connection can be had.
    pub async fn reader(&self, deadline: Instant) -> Result<Connection> {
        self.admit()?;
        self.observed(self.primary.reader(deadline).await)
    }

    /// A connection for a transaction, until `deadline`; see [`Shard::transaction`].
    ///
    /// # Errors
    /// As [`Shard::reader`].
    pub(crate) async fn writer(&self, deadline: Instant) -> Result<Connection> {
        self.admit()?;
        self.observed(self.primary.writer(deadline).await)
    }

    /// A connection for a write lane, until `deadline`.
    ///
    /// # Errors
    /// As [`Shard::reader`].
    pub async fn lane(&self, deadline: Instant) -> Result<Connection> {
        self.admit()?;
        self.observed(self.primary.lane(deadline).await)
    }

    fn observed(&self, acquired: Result<Connection>) -> Result<Connection> {
        match acquired {
            Ok(connection) => Ok(connection.observed_by(self.watch.clone())),
            Err(error) => Err(self
                .watch
                .breaker
                .observe(Some(error))
                .unwrap_or(Error::DeadlineExceeded)),
        }
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.primary.close().await;
        for replica in &self.replicas {
            replica.close().await;
        }
    }
}

/// Is told of every statement: counts it, and lets the breaker know how it went.
#[derive(Clone, Debug)]
struct Watch {
    breaker: Arc<Breaker>,
    all: Arc<AtomicU64>,
    own: Arc<AtomicU64>,
}

impl Observer for Watch {
    fn observe(&self, failure: Option<Error>) -> Option<Error> {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.own.fetch_add(1, Ordering::Relaxed);
        self.breaker.observe(failure)
    }
}

/// Opens after some failures in a row, lets one call try after a cool-down, closes when it succeeds.
#[derive(Debug)]
struct Breaker {
    shard: ShardName,
    limit: u32,
    cooldown: Duration,
    failures: AtomicU32,
    /// When the next call may try; `None` while closed.
    retry_at: Mutex<Option<Instant>>,
}

impl Breaker {
    fn new(shard: ShardName, limit: u32, cooldown: Duration) -> Self {
        Self {
            shard,
            limit,
            cooldown,
            failures: AtomicU32::new(0),
            retry_at: Mutex::new(None),
        }
    }

    fn is_open(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= self.limit
    }

    fn admits(&self) -> bool {
        if !self.is_open() {
            return true;
        }
        let now = Instant::now();
        let mut retry_at = self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may_try = retry_at.is_none_or(|at| now >= at);
        if may_try {
            *retry_at = Some(now + self.cooldown); // one probe a cool-down; the others go on failing at once
        }
        may_try
    }

    fn failed(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == self.limit {
            tracing::warn!(shard = %self.shard, "circuit breaker open");
        }
        if self.is_open() {
            *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Instant::now() + self.cooldown);
        }
    }

    fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    fn state(&self) -> &'static str {
        if !self.is_open() {
            return "closed";
        }
        let retry_at = *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        if retry_at.is_none_or(|at| Instant::now() >= at) {
            "half-open"
        } else {
            "open"
        }
    }
}

impl Breaker {
    fn observe(&self, failure: Option<Error>) -> Option<Error> {
        match failure {
            Some(Error::DatabaseUnavailable(words)) => {
                tracing::warn!(shard = %self.shard, error = words, "the shard's database cannot do it now");
                self.failed();
                Some(Error::ShardUnavailable(self.shard.clone()))
            }
            Some(Error::WrongDatabase(why)) => {
                tracing::error!(shard = %self.shard, why, "the shard's address leads to another database");
                self.failed();
                Some(Error::ShardUnavailable(self.shard.clone()))
            }
            Some(Error::DeadlineExceeded) => {
                self.failed();
                Some(Error::DeadlineExceeded)
            }
            other => {
                self.succeeded(); // whatever it said, it answered
                other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_probes_and_closes() {
        let breaker = Breaker::new(ShardName::new("s").unwrap(), 2, Duration::from_millis(20));
        breaker.failed();
        assert!(breaker.admits());
        breaker.failed();
        assert!(!breaker.admits());
        assert_eq!(breaker.state(), "open");
        std::thread::sleep(Duration::from_millis(25));
        assert_eq!(breaker.state(), "half-open");
        assert!(breaker.admits(), "one probe");
        assert!(!breaker.admits(), "and only one");
        breaker.succeeded();
        assert!(breaker.admits());
        assert_eq!(breaker.state(), "closed");
    }
}
