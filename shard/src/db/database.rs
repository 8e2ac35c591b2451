//! A database: its pools, and the connections that they lend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Dialect;
use super::connection::{Connection, Raw, Use};
#[cfg(feature = "explain")]
use super::explain;
use super::guard::Guard;
use super::identity::Identity;
use super::mysql::MySql;
use super::pool::{Pool, Pooled, Wanted};
use super::pools::{self, Pools};
use super::sqlite::File;
use super::sqlite::Sqlite;
use crate::error::{Error, Result};
use crate::ids::Incarnation;
use crate::settings::{DatabaseUrl, PoolSettings};
#[cfg(feature = "steps")]
use crate::steps::{self, Stepped};

/// A database: connections for reading and short writes, and connections of their own for write lanes.
#[derive(Clone, Debug)]
pub struct Database {
    pools: Pools,
    guard: Option<Arc<Guard>>,
    statement_timeout: Duration,
    #[cfg(feature = "explain")]
    watched: Option<String>,
    #[cfg(feature = "steps")]
    stepped: Option<Stepped>,
}

/// How long a lane tries to open a connection before others have to make room for it.
const LANE_PATIENCE: Duration = Duration::from_millis(250);
/// How often others make room: another process, or one of them, may be sooner to take it.
const GIVE_WAY_MAX: u32 = 3;
/// By the primary key: no migration has no name.
const WRITE_NOTHING: &str = "DELETE FROM schema_migrations WHERE name = ''";

impl Database {
    /// Prepares the pools for the database that has to be `identity`; no connection to another one is ever handed out. Nothing
    /// is connected until it is needed, so a database that is down is no error here.
    ///
    /// # Errors
    /// When the address cannot be understood.
    pub fn open(
        url: &DatabaseUrl,
        settings: &PoolSettings,
        lanes: u32,
        identity: Identity,
    ) -> Result<Self> {
        let guard = Arc::new(Guard::new(identity, url.clone(), true));
        Self::prepare(url, settings, lanes, (File::Use, Some(guard)))
    }

    /// The same for a replica, which is only read: another server of a cluster may be to write it.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub(crate) fn open_replica(
        url: &DatabaseUrl,
        settings: &PoolSettings,
        identity: Identity,
    ) -> Result<Self> {
        let guard = Arc::new(Guard::new(identity, url.clone(), false));
        Self::prepare(url, settings, 1, (File::Use, Some(guard)))
    }

    /// The database at `url`, whichever it is: for who looks after databases.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_any(url: &DatabaseUrl, settings: &PoolSettings) -> Result<Self> {
        Self::prepare(url, settings, 1, (File::Use, None))
    }

    /// The same, only to look into it: nothing about it changes by being opened.
    pub(crate) fn look_into(url: &DatabaseUrl, settings: &PoolSettings) -> Result<Self> {
        Self::prepare(url, settings, 1, (File::Read, None))
    }

    /// The same; a SQLite file is made if it is not there.
    pub(crate) fn make(url: &DatabaseUrl, settings: &PoolSettings) -> Result<Self> {
        Self::prepare(url, settings, 1, (File::Make, None))
    }

    fn prepare(
        url: &DatabaseUrl,
        settings: &PoolSettings,
        lanes: u32,
        (file, guard): (File, Option<Arc<Guard>>),
    ) -> Result<Self> {
        let pools = match Dialect::of(url)? {
            Dialect::MySql => Pools::mysql(url, settings, lanes, guard.as_ref())?,
            Dialect::Sqlite => Pools::sqlite(url, settings, file, guard.as_ref())?,
        };
        Ok(Self {
            pools,
            guard,
            statement_timeout: settings.statement_timeout.0,
            #[cfg(feature = "explain")]
            watched: explain::watched(&url.0),
            #[cfg(feature = "steps")]
            stepped: Stepped::opened(url),
        })
    }

    /// Most statements that one process keeps prepared on the server of a MySQL database.
    #[must_use]
    pub fn most_prepared(connections: u32, lanes: u32) -> u64 {
        pools::most_prepared(connections, lanes)
    }

    /// The SQL it speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.pools {
            Pools::MySql { .. } => Dialect::MySql,
            Pools::Sqlite { .. } => Dialect::Sqlite,
        }
    }

    /// A connection for reading, until `deadline`.
    ///
    /// # Errors
    /// When none can be had within the acquire timeout; [`Error::WrongDatabase`].
    pub async fn reader(&self, deadline: Instant) -> Result<Connection> {
        let raw = match &self.pools {
            Pools::MySql { shared, .. } => {
                Raw::MySql(shared.acquire(deadline.into(), Wanted::Any).await?)
            }
            Pools::Sqlite { readers, .. } => self.sqlite(deadline, readers, Wanted::Any).await?,
        };
        self.checked(self.connection(raw, deadline)).await
    }

    /// A connection for write transactions, until `deadline`.
    ///
    /// # Errors
    /// As [`Database::reader`].
    pub async fn writer(&self, deadline: Instant) -> Result<Connection> {
        self.a_writer(deadline, Wanted::Any).await
    }

    /// The same, and it is opened now: no state of an earlier session can be in the way.
    ///
    /// # Errors
    /// As [`Database::reader`].
    pub(crate) async fn new_writer(&self, deadline: Instant) -> Result<Connection> {
        self.a_writer(deadline, Wanted::New).await
    }

    async fn a_writer(&self, deadline: Instant, wanted: Wanted) -> Result<Connection> {
        let raw = match &self.pools {
            Pools::MySql { shared, .. } => {
                Raw::MySql(shared.acquire(deadline.into(), wanted).await?)
            }
            Pools::Sqlite { writer, .. } => self.sqlite(deadline, writer, wanted).await?,
        };
        self.checked(self.connection(raw, deadline)).await
    }

    /// A connection for a write lane, until `deadline`; on MySQL it does not compete with the others, and when the server has
    /// no room for another connection, one of the others makes room.
    ///
    /// # Errors
    /// As [`Database::reader`].
    pub async fn lane(&self, deadline: Instant) -> Result<Connection> {
        let Pools::MySql { lanes, shared } = &self.pools else {
            return self.writer(deadline).await;
        };
        let raw = Self::lane_of(lanes, shared, deadline).await?;
        let mut connection = self
            .checked(self.connection(Raw::MySql(raw), deadline))
            .await?;
        connection.begins_by_itself = true;
        Ok(connection)
    }

    async fn lane_of(
        lanes: &Pool<MySql>,
        shared: &Pool<MySql>,
        deadline: Instant,
    ) -> Result<Pooled<MySql>> {
        for _ in 0..GIVE_WAY_MAX {
            let soon = deadline.min(Instant::now() + LANE_PATIENCE);
            match lanes.acquire(soon.into(), Wanted::Any).await {
                Err(Error::DeadlineExceeded | Error::DatabaseUnavailable(_)) => {}
                outcome => return outcome,
            }
            if !lanes.is_at_limit() {
                break;
            }
            shared.give_way(deadline.into()).await;
        }
        lanes.acquire(deadline.into(), Wanted::Any).await
    }

    async fn sqlite(&self, deadline: Instant, pool: &Pool<Sqlite>, wanted: Wanted) -> Result<Raw> {
        let acquire = pool.acquire(deadline.into(), wanted);
        #[cfg(feature = "steps")]
        let acquire = steps::at_once(self.stepped.is_some() && pool.has_room(), acquire);
        acquire.await.map(Raw::Sqlite)
    }

    /// Hands `connection` out, unless the database was found to be another one lately and still is.
    async fn checked(&self, mut connection: Connection) -> Result<Connection> {
        if self.guard.as_ref().is_some_and(|guard| guard.is_refused()) {
            connection.identify().await?;
        }
        Ok(connection)
    }

    fn connection(&self, raw: Raw, deadline: Instant) -> Connection {
        let statement_timeout = self.statement_timeout;
        Connection {
            raw: Some(raw),
            deadline,
            statement_timeout,
            guard: self.guard.clone(),
            observer: None,
            state: Use::Idle,
            in_transaction: false,
            begins_by_itself: false,
            #[cfg(feature = "explain")]
            watched: self.watched.clone(),
            #[cfg(feature = "steps")]
            stepped: self.stepped.clone(),
        }
    }

    /// Whether the database answers by `deadline`, and still is the one that it has to be.
    ///
    /// # Errors
    /// When it does not answer; [`Error::WrongDatabase`].
    pub async fn ping(&self, deadline: Instant) -> Result<()> {
        let mut connection = self.reader(deadline).await?;
        if self.guard.is_some() {
            return connection.identify().await;
        }
        connection.fetch_optional("SELECT 1", &[]).await.map(drop)
    }

    /// Whether the database takes writes: one is tried that changes nothing. A SQLite file has one writer, for which this
    /// would wait; there it is the last write that tells.
    ///
    /// # Errors
    /// When it does not.
    pub async fn try_write(&self, deadline: Instant) -> Result<()> {
        if self.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let mut connection = self.writer(deadline).await?;
        connection.execute(WRITE_NOTHING, &[]).await.map(drop)
    }

    /// How many databases have been this one, as far as is known: a database that was brought back from a backup, or took
    /// the place of a lost one, has a greater number than that before it.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.guard.as_ref().map(|guard| guard.incarnation())
    }

    /// Open connections, and how many of them are idle.
    #[must_use]
    pub fn connections(&self) -> (u32, u32) {
        self.pools.size()
    }

    /// Closes what was idle for too long, and tries whether an outage is over. To be called from time to time.
    pub async fn tidy(&self) {
        self.pools.tidy().await;
    }

    /// Closes every connection once it is given back.
    pub async fn close(&self) {
        let close = self.pools.close();
        #[cfg(feature = "steps")]
        let close = {
            let (open, idle) = self.connections();
            steps::at_once(self.stepped.is_some() && open == idle, close)
        };
        close.await;
    }
}
