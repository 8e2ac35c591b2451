//! Connections to SQLite files.

use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _};

use super::guard::Guard;
use super::pool::{Connector, Unopened};
use crate::error::{Error, Result};
use crate::settings::{DatabaseUrl, PoolSettings};

/// How many statements a connection keeps prepared: memory of this process only.
const PREPARED: usize = 512;

/// What may become of a SQLite file when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// It is only read, whatever it is.
    Read,
    /// It is used, if it is there.
    Use,
    /// It is made, if it is not there.
    Make,
}

/// Opens connections to a file.
#[derive(Clone, Debug)]
pub(super) struct Sqlite {
    options: SqliteConnectOptions,
    guard: Option<Arc<Guard>>,
}

impl Sqlite {
    pub(super) fn new(
        url: &DatabaseUrl,
        settings: &PoolSettings,
        file: File,
        guard: Option<&Arc<Guard>>,
    ) -> Result<Self> {
        let path = url.0.strip_prefix("sqlite://").unwrap_or_default();
        if path.is_empty() || path.contains('?') {
            return Err(Error::invalid(
                "database url",
                "write sqlite:// and then the path of the file",
            ));
        }
        let options = SqliteConnectOptions::new().filename(path);
        let options = match file {
            File::Read => options.read_only(true),
            // synchronous = FULL: in WAL mode only this syncs every commit (INV-ACK). https://sqlite.org/pragma.html#pragma_synchronous
            File::Use | File::Make => options
                .create_if_missing(file == File::Make)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full),
        };
        let options = options
            .busy_timeout(settings.lock_timeout.0)
            .statement_cache_capacity(PREPARED)
            .pragma("cache_size", "-16384")
            .disable_statement_logging();
        let guard = guard.cloned();
        Ok(Self { options, guard })
    }
}

impl Connector for Sqlite {
    type Connection = SqliteConnection;

    async fn open(&self) -> Result<SqliteConnection, Unopened> {
        let mut connection = self.options.connect().await.map_err(Error::from)?;
        if let Some(guard) = &self.guard {
            guard.admit_sqlite(&mut connection).await?;
        }
        Ok(connection)
    }

    async fn ping(connection: &mut SqliteConnection) -> bool {
        connection.ping().await.is_ok()
    }

    async fn close(connection: SqliteConnection) {
        let _ = connection.close().await; // it ends either way
    }
}
