//! Connections to MySQL and MariaDB.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Executor, Row as _};

use super::Value;
use super::guard::Guard;
use super::pool::{Connector, Unopened};
use crate::error::{Error, Result};
use crate::metrics;
use crate::settings::{DatabaseUrl, PoolSettings};

/// Opens connections whose sessions are as statements here expect them.
#[derive(Clone, Debug)]
pub(super) struct MySql {
    options: MySqlConnectOptions,
    lock_timeout: Duration,
    statement_timeout: Duration,
    is_of_lane: bool,
    guard: Option<Arc<Guard>>,
}

impl MySql {
    pub(super) fn new(
        url: &DatabaseUrl,
        settings: &PoolSettings,
        guard: Option<&Arc<Guard>>,
    ) -> Result<Self> {
        let invalid = |error: sqlx::Error| {
            Error::invalid("database url", format!("`{}`: {error}", url.redacted()))
        };
        let options: MySqlConnectOptions = url.0.parse().map_err(invalid)?;
        // Slow statements are seen in metrics.
        let options = options
            .charset("utf8mb4")
            .collation("utf8mb4_bin")
            .disable_statement_logging();
        Ok(Self {
            options,
            lock_timeout: settings.lock_timeout.0,
            statement_timeout: settings.statement_timeout.0,
            is_of_lane: false,
            guard: guard.cloned(),
        })
    }

    /// The same, whose connections keep so many statements prepared.
    pub(super) fn keeping(&self, prepared: usize) -> Self {
        let mut keeping = self.clone();
        keeping.options = keeping.options.statement_cache_capacity(prepared);
        keeping
    }

    /// The same for lanes, which save the statement that would begin each of their transactions.
    pub(super) fn of_lanes(&self) -> Self {
        Self {
            is_of_lane: true,
            ..self.clone()
        }
    }
}

impl Connector for MySql {
    type Connection = MySqlConnection;

    async fn open(&self) -> Result<MySqlConnection, Unopened> {
        let opened = async {
            let mut connection = self.options.connect().await?;
            self.prepare(&mut connection).await?;
            Ok(connection)
        };
        let mut connection = opened.await.map_err(|error: sqlx::Error| Unopened {
            at_limit: AT_LIMIT.contains(&number(&error)),
            error: error.into(),
        })?;
        if let Some(guard) = &self.guard {
            guard.admit_mysql(&mut connection).await?;
        }
        if self.is_of_lane {
            // After the first SELECT, which would begin a transaction.
            let session = connection.execute("SET autocommit = 0").await;
            session.map_err(Error::from)?;
        }
        Ok(connection)
    }

    async fn ping(connection: &mut MySqlConnection) -> bool {
        connection.ping().await.is_ok()
    }

    async fn close(connection: MySqlConnection) {
        let _ = connection.close().await; // it ends either way
    }
}

impl MySql {
    /// READ COMMITTED takes no gap locks, so that writers of neighbouring rows do not meet; every transaction here locks the
    /// heads it depends on. The server's own limit on a SELECT is MySQL's `max_execution_time` (milliseconds) or MariaDB's
    /// `max_statement_time` (seconds).
    async fn prepare(&self, connection: &mut MySqlConnection) -> sqlx::Result<()> {
        let version: String = connection
            .fetch_one("SELECT VERSION()")
            .await?
            .try_get_unchecked(0)?;
        let (isolation, limit) = if version.contains("MariaDB") {
            let seconds = self.statement_timeout.as_secs_f64();
            ("tx_isolation", format!("max_statement_time = {seconds}"))
        } else {
            let milliseconds = self.statement_timeout.as_millis();
            let limit = format!("max_execution_time = {milliseconds}");
            ("transaction_isolation", limit)
        };
        let lock_wait = self.lock_timeout.as_secs().max(1);
        let session = format!(
            "SET SESSION {isolation} = 'READ-COMMITTED', innodb_lock_wait_timeout = {lock_wait}, \
             sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT', {limit}, autocommit = 1"
        );
        connection.execute(AssertSqlSafe(session)).await.map(drop)
    }
}

/// Whether a statement could not be prepared because the server's clients together have too many prepared already. Source:
/// MySQL 8.4 error message reference, `ER_MAX_PREPARED_STMT_COUNT_REACHED`.
pub(super) fn lacks_room(error: &sqlx::Error) -> bool {
    number(error) == 1461
}

/// ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED
const AT_LIMIT: [u16; 3] = [1040, 1203, 1226];

/// The server's number for an error; 0 when the server did not say it.
fn number(error: &sqlx::Error) -> u16 {
    error
        .as_database_error()
        .and_then(|database| database.try_downcast_ref::<MySqlDatabaseError>())
        .map_or(0, MySqlDatabaseError::number)
}

/// Closes what is prepared on the connection.
pub(super) async fn give_statements_back(connection: &mut MySqlConnection) -> sqlx::Result<()> {
    metrics::UNPREPARED_STATEMENTS.increment(1);
    connection.clear_cached_statements().await
}

/// A statement with its values in its text. Bytes and text are written in hexadecimal digits, so whatever they say, they are
/// values.
pub(super) fn as_text(sql: &str, args: &[Value<'_>]) -> String {
    let mut text = String::with_capacity(sql.len() + 16 * args.len());
    let mut pieces = sql.split('?');
    text.push_str(pieces.next().unwrap_or_default());
    for (piece, arg) in pieces.zip(args) {
        match arg {
            Value::Null => text.push_str("NULL"),
            // A minus before it would begin a comment.
            Value::Int(value) if *value < 0 => text.extend(["(", &value.to_string(), ")"]),
            Value::Int(value) => text.push_str(&value.to_string()),
            Value::Bytes(value) => push_hex(&mut text, "X'", value),
            Value::Text(value) => push_hex(&mut text, "_utf8mb4 X'", value.as_bytes()),
        }
        text.push_str(piece);
    }
    text
}

fn push_hex(text: &mut String, prefix: &str, bytes: &[u8]) {
    text.push_str(prefix);
    for byte in bytes {
        let _ = write!(text, "{byte:02X}"); // a String takes everything
    }
    text.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_values_in_text() {
        let args = [
            Value::Int(7),
            Value::Int(-7),
            Value::Null,
            Value::Bytes(b"\0'"),
            Value::Text("o'?"),
            Value::Text(""),
        ];
        assert_eq!(
            as_text("SELECT ?, 1 -?, (?, ?) IN (?), ? FOR UPDATE", &args),
            "SELECT 7, 1 -(-7), (NULL, X'0027') IN (_utf8mb4 X'6F273F'), _utf8mb4 X'' FOR UPDATE"
        );
    }
}
