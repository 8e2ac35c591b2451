//! The pools of a database: who shares which connections, and how many there are.

use std::sync::Arc;
use std::time::Duration;

use futures_util::join;

use super::guard::Guard;
use super::mysql::MySql;
use super::pool::{Limits, Pool};
use super::sqlite::{File, Sqlite};
use crate::error::Result;
use crate::settings::{DatabaseUrl, PoolSettings};

/// How many statements a MySQL connection keeps prepared. They count towards the server's `max_prepared_stmt_count` (16,382
/// by default), which all its clients share: with the default settings a process takes at most 20 * 128 + 512 of it. Under
/// mixed load a connection of the shared pool came to 50 statements; a lane has one for each size of its batches, and two
/// dozen besides.
const PREPARED: usize = 128;
const PREPARED_BY_LANE: usize = 512;
/// A lane's connection is kept, unless it fails.
const LANE_IDLE: Duration = Duration::from_secs(3600);
/// Most connections that read a SQLite file at once: it has one disk.
const READERS_MAX: u32 = 8;

#[derive(Clone, Debug)]
pub(super) enum Pools {
    /// Lanes keep their connections, which must not be lent to others meanwhile.
    MySql {
        shared: Pool<MySql>,
        lanes: Pool<MySql>,
    },
    /// SQLite has one writer at a time; queueing for it here is fair and has a deadline, its own lock has neither.
    Sqlite {
        readers: Pool<Sqlite>,
        writer: Pool<Sqlite>,
    },
}

impl Pools {
    pub(super) fn mysql(
        url: &DatabaseUrl,
        settings: &PoolSettings,
        lanes: u32,
        guard: Option<&Arc<Guard>>,
    ) -> Result<Self> {
        let connector = MySql::new(url, settings, guard)?;
        let limits = |connections: u32, idle_timeout: Duration| Limits {
            connections,
            acquire_timeout: settings.acquire_timeout.0,
            idle_timeout: Some(idle_timeout),
        };
        Ok(Self::MySql {
            shared: Pool::new(
                connector.keeping(PREPARED),
                limits(settings.max_connections, settings.idle_timeout.0),
            ),
            lanes: Pool::new(
                connector.of_lanes().keeping(PREPARED_BY_LANE),
                limits(lanes, LANE_IDLE),
            ),
        })
    }

    pub(super) fn sqlite(
        url: &DatabaseUrl,
        settings: &PoolSettings,
        file: File,
        guard: Option<&Arc<Guard>>,
    ) -> Result<Self> {
        let connector = Sqlite::new(url, settings, file, guard)?;
        let limits = |connections: u32| Limits {
            connections,
            acquire_timeout: settings.acquire_timeout.0,
            idle_timeout: None,
        };
        Ok(Self::Sqlite {
            readers: Pool::new(
                connector.clone(),
                limits(settings.max_connections.min(READERS_MAX)),
            ),
            writer: Pool::new(connector, limits(1)),
        })
    }

    /// Open connections, and how many of them are idle.
    pub(super) fn size(&self) -> (u32, u32) {
        let (a, b) = match self {
            Self::MySql { shared, lanes } => (shared.size(), lanes.size()),
            Self::Sqlite { readers, writer } => (readers.size(), writer.size()),
        };
        (a.0 + b.0, a.1 + b.1)
    }

    /// See [`Pool::tidy`].
    pub(super) async fn tidy(&self) {
        match self {
            Self::MySql { shared, lanes } => drop(join!(shared.tidy(), lanes.tidy())),
            Self::Sqlite { readers, writer } => drop(join!(readers.tidy(), writer.tidy())),
        }
    }

    /// See [`Pool::close`].
    pub(super) async fn close(&self) {
        match self {
            Self::MySql { shared, lanes } => drop(join!(shared.close(), lanes.close())),
            Self::Sqlite { readers, writer } => drop(join!(readers.close(), writer.close())),
        }
    }
}

/// Statements that one process keeps prepared at most, over so many connections and lanes.
pub(super) fn most_prepared(connections: u32, lanes: u32) -> u64 {
    u64::from(connections) * PREPARED as u64 + u64::from(lanes) * PREPARED_BY_LANE as u64
}
