//! The pools of a database, and how its sessions begin.

use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection as _, Executor, MySqlPool, Row as _, SqlitePool,
};

use super::guard::Guard;
use crate::error::{Error, Result};
use crate::settings::{DatabaseUrl, PoolSettings};

#[derive(Clone, Debug)]
pub(super) enum Pools {
    MySql {
        shared: MySqlPool,
        lanes: MySqlPool,
    },
    /// SQLite has one writer at a time; queueing for it here is fair and has a deadline, its own lock has neither.
    Sqlite {
        readers: SqlitePool,
        writer: SqlitePool,
    },
}

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

pub(super) fn mysql_pools(
    url: &DatabaseUrl,
    settings: &PoolSettings,
    lanes: u32,
    guard: Option<&Arc<Guard>>,
) -> Result<Pools> {
    let invalid = |error: sqlx::Error| {
        Error::invalid("database url", format!("`{}`: {error}", url.redacted()))
    };
    let options: MySqlConnectOptions = url.0.parse().map_err(invalid)?;
    // A write lane prepares a statement per batch size and purpose; 512 covers them. Slow statements are seen in metrics.
    let options = options
        .charset("utf8mb4")
        .collation("utf8mb4_bin")
        .statement_cache_capacity(512)
        .disable_statement_logging();
    let pool = |size: u32, idle_timeout: Duration, session: &'static str| {
        let (settings, guard) = (settings.clone(), guard.cloned());
        MySqlPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(settings.acquire_timeout.0)
            .idle_timeout(idle_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    let stale = meta.idle_for > Duration::from_secs(1);
                    Ok(!stale || connection.ping().await.is_ok())
                })
            })
            .after_connect(move |connection, _meta| {
                let (settings, guard) = (settings.clone(), guard.clone());
                Box::pin(async move {
                    prepare_mysql_session(connection, &settings).await?;
                    if let Some(guard) = guard {
                        guard.admit_mysql(connection).await?;
                    }
                    connection.execute(session).await.map(drop)
                })
            })
            .connect_lazy_with(options.clone())
    };
    let shared = pool(
        settings.max_connections,
        settings.idle_timeout.0,
        "SET autocommit = 1",
    );
    // Lanes keep their connection, and save the statement that would begin each of their transactions.
    let lanes = pool(lanes, Duration::from_secs(3600), "SET autocommit = 0");
    Ok(Pools::MySql { shared, lanes })
}

/// READ COMMITTED takes no gap locks, so that writers of neighbouring rows do not meet; every transaction here locks the
/// heads it depends on. The server's own limit on a SELECT is MySQL's `max_execution_time` (milliseconds) or MariaDB's
/// `max_statement_time` (seconds).
async fn prepare_mysql_session(
    connection: &mut sqlx::MySqlConnection,
    settings: &PoolSettings,
) -> sqlx::Result<()> {
    let lock_wait = settings.lock_timeout.0.as_secs().max(1);
    let common = format!(
        "SET SESSION transaction_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = {lock_wait}, \
         sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT'"
    );
    let maria = common.replace("transaction_isolation", "tx_isolation");
    let version: String = sqlx::query("SELECT VERSION()")
        .fetch_one(&mut *connection)
        .await?
        .try_get_unchecked(0)?;
    let limit = settings.statement_timeout.0;
    let (first, second) = if version.contains("MariaDB") {
        (
            maria,
            format!("SET SESSION max_statement_time = {}", limit.as_secs_f64()),
        )
    } else {
        (
            common,
            format!("SET SESSION max_execution_time = {}", limit.as_millis()),
        )
    };
    connection.execute(AssertSqlSafe(first)).await?;
    connection.execute(AssertSqlSafe(second)).await?;
    Ok(())
}

pub(super) fn sqlite_pools(
    url: &DatabaseUrl,
    settings: &PoolSettings,
    file: File,
    guard: Option<&Arc<Guard>>,
) -> Result<Pools> {
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
        .statement_cache_capacity(512)
        .pragma("cache_size", "-16384")
        .disable_statement_logging();
    let pool = |size: u32| {
        let guard = guard.cloned();
        SqlitePoolOptions::new()
            .max_connections(size)
            .acquire_timeout(settings.acquire_timeout.0)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .after_connect(move |connection, _meta| {
                let guard = guard.clone();
                Box::pin(async move {
                    match guard {
                        Some(guard) => guard.admit_sqlite(connection).await,
                        None => Ok(()),
                    }
                })
            })
            .connect_lazy_with(options.clone())
    };
    Ok(Pools::Sqlite {
        readers: pool(settings.max_connections.min(8)),
        writer: pool(1),
    })
}
