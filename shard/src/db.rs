//! The dialect seam: one set of statements for SQLite, MySQL and MariaDB.
//!
//! Statements are written once, with `?` for every value and these words where the dialects differ:
//!
//! | word | MySQL, MariaDB | SQLite |
//! |---|---|---|
//! | `{for_update}` | `FOR UPDATE` | nothing: a write transaction is alone |
//! | `{for_share}` | `LOCK IN SHARE MODE` | nothing |
//! | `{on_duplicate pk}` | `ON DUPLICATE KEY UPDATE` | `ON CONFLICT (pk) DO UPDATE SET` |
//! | `{new column}` | `VALUES(column)` | `excluded.column` |
//! | `{greatest}` | `GREATEST` | `MAX` |
//! | `{rows}` | nothing: `(a, b) IN ((?, ?), (?, ?))` | `VALUES` |
//! | `{part}` | nothing: `(SELECT … LIMIT ?) UNION ALL (SELECT …)` | `SELECT * FROM` before each of the two |
//! | `{signed}` | `SIGNED` | `INTEGER` |
//! | `{now}` | the database's clock, in milliseconds since 1970 | the same; it is this machine's |
//! | `{by index}` | `FORCE INDEX (index)`: a long list must not turn into a scan | nothing: it never does |
//! | `{now}` | the server's clock, in milliseconds since 1970 | this process's clock, likewise |
//!
//! Every value is bound, never written into the text. Keys and ids are bytes in big-endian order and counters are
//! signed 64-bit integers, so that both dialects sort alike.
//!
//! A connection is asked for with a deadline, which then holds for every statement on it. Dropped in the middle of a
//! transaction it rolls back, dropped in the middle of a statement it is closed: nothing half-done is ever seen.
//!
//! A database that is opened under an identity is asked for it by every new connection; see `guard`.

macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql));
        for arg in $args {
            query = match *arg {
                Value::Null => query.bind(None::<i64>),
                Value::Int(value) => query.bind(value),
                Value::Bytes(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
            };
        }
        query
    }};
}

#[cfg(feature = "explain")]
pub mod explain;
mod guard;
mod mysql;
mod pool;
mod pools;
mod sqlite;
#[cfg(feature = "steps")]
mod stepped;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

use self::guard::Guard;
use self::mysql::MySql;
use self::pool::{Pool, Pooled, Wanted};
use self::pools::{File, Pools};
use self::sqlite::Sqlite;
use crate::error::{Error, Result};
use crate::identity::{self, Identity};
use crate::ids::Incarnation;
use crate::settings::{DatabaseUrl, PoolSettings};
#[cfg(feature = "steps")]
use crate::steps::{self, Access, Stepped};

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// The dialect that `url` asks for.
    ///
    /// # Errors
    /// When it is neither `mysql://`, `mariadb://` nor `sqlite://`.
    pub fn of(url: &DatabaseUrl) -> Result<Self> {
        match url.0.split_once("://").map(|(scheme, _)| scheme) {
            Some("mysql" | "mariadb") => Ok(Self::MySql),
            Some("sqlite") => Ok(Self::Sqlite),
            _ => Err(Error::invalid(
                "database url",
                format!("`{}` is neither mysql:// nor sqlite://", url.redacted()),
            )),
        }
    }

    /// `template` in this dialect.
    #[must_use]
    pub fn render(self, template: &str) -> String {
        let mut text = String::with_capacity(template.len() + 32);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let Some((word, after)) = after.split_once('}') else {
                break;
            };
            rest = after;
            let (word, argument) = word.split_once(' ').unwrap_or((word, ""));
            match (word, self) {
                ("for_update", Self::MySql) => text.push_str("FOR UPDATE"),
                ("for_share", Self::MySql) => text.push_str("LOCK IN SHARE MODE"),
                ("on_duplicate", Self::MySql) => text.push_str("ON DUPLICATE KEY UPDATE"),
                ("on_duplicate", Self::Sqlite) => {
                    text.extend(["ON CONFLICT (", argument, ") DO UPDATE SET"]);
                }
                ("new", Self::MySql) => text.extend(["VALUES(", argument, ")"]),
                ("new", Self::Sqlite) => text.extend(["excluded.", argument]),
                ("greatest", Self::MySql) => text.push_str("GREATEST"),
                ("greatest", Self::Sqlite) => text.push_str("MAX"),
                ("rows", Self::Sqlite) => text.push_str("VALUES "),
                ("by", Self::MySql) => text.extend(["FORCE INDEX (", argument, ")"]),
                ("signed", Self::MySql) => text.push_str("SIGNED"),
                ("signed", Self::Sqlite) => text.push_str("INTEGER"),
                // Every session is in UTC, so that no hour of its clock is there twice.
                ("now", Self::MySql) => {
                    text.push_str("CAST(ROUND(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED)");
                }
                #[cfg(feature = "steps")]
                ("now", Self::Sqlite) if let Some(now) = steps::now() => {
                    text.push_str(&now.to_string());
                }
                ("now", Self::Sqlite) => {
                    text.push_str("CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER)");
                }
                ("part", Self::Sqlite) => text.push_str("SELECT * FROM "),
                ("for_update" | "for_share" | "by", Self::Sqlite)
                | ("rows" | "part", Self::MySql) => {}
                _ => debug_assert!(false, "unknown word {word} in a statement"),
            }
        }
        text.push_str(rest);
        text
    }
}

/// `?, ?, ?`: `n` placeholders.
#[must_use]
pub fn placeholders(n: usize) -> String {
    let mut text = "?, ".repeat(n);
    text.truncate(text.len().saturating_sub(2));
    text
}

/// `(?, ?), (?, ?)`: `rows` rows of `columns` placeholders.
#[must_use]
pub fn rows_of(rows: usize, columns: usize) -> String {
    let row = format!("({}), ", placeholders(columns));
    let mut text = row.repeat(rows);
    text.truncate(text.len().saturating_sub(2));
    text
}

/// `(a, b) IN ((?, ?), (?, ?))`: a condition on several columns at once. A server answers it sooner than as many
/// `a = ? AND b = ?` with `OR` between them: a SELECT of 32 pairs by the primary key took MariaDB 10.11 175 µs of processor
/// time instead of 450, one of 128 pairs 750 instead of 1,230.
#[must_use]
pub(crate) fn in_rows<const N: usize>(columns: [&str; N], rows: usize) -> String {
    format!("({}) IN ({{rows}}{})", columns.join(", "), rows_of(rows, N))
}

/// The smallest of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 … that is at least `n`. Lists in statements are given such sizes by
/// repeating their last entry, so that few statements are prepared.
#[must_use]
pub fn list_size(n: usize) -> usize {
    let power = n.next_power_of_two();
    let between = power / 4 * 3;
    if between >= n { between } else { power }
}

/// `rows` with the last one repeated up to a [`list_size`]: for upserts, which may name a row twice.
pub(crate) fn padded<T>(rows: &[T]) -> impl Iterator<Item = &T> {
    rows.iter()
        .chain(rows.last().into_iter().cycle())
        .take(list_size(rows.len()))
}

/// A value to bind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A counter, a time, a code.
    Int(i64),
    /// A key or an id.
    Bytes(&'a [u8]),
    /// Text.
    Text(&'a str),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// An array of [`Value`]s from whatever each entry converts from.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        [$($crate::db::Value::from($value)),*]
    };
}
pub(crate) use values;

macro_rules! wrapper_values {
    ($($int:ty),*; $($bytes:ty),*) => {
        $(impl From<$int> for Value<'_> {
            fn from(value: $int) -> Self {
                Self::Int(value.as_i64())
            }
        })*
        $(impl<'a> From<&'a $bytes> for Value<'a> {
            fn from(value: &'a $bytes) -> Self {
                Self::Bytes(value.as_ref())
            }
        })*
    };
}

wrapper_values!(crate::ids::Seq, crate::ids::Rev, crate::ids::Epoch, crate::ids::NotificationId, crate::ids::Incarnation, crate::archive::Generation; crate::ids::ConversationId, crate::ids::UserId);

/// A row of an answer.
#[derive(Debug)]
pub enum Row {
    /// From MySQL or MariaDB.
    MySql(MySqlRow),
    /// From SQLite.
    Sqlite(SqliteRow),
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $optional:ident, $type:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the column is not there, is NULL, or does not hold this type.
        pub fn $name(&self, column: usize) -> Result<$type> {
            match self {
                Self::MySql(row) => row.try_get_unchecked(column),
                Self::Sqlite(row) => row.try_get_unchecked(column),
            }
            .map_err(|error| unreadable(column, &error))
        }

        /// The same, `None` for NULL.
        ///
        /// # Errors
        /// When the column is not there, or does not hold this type.
        pub fn $optional(&self, column: usize) -> Result<Option<$type>> {
            match self {
                Self::MySql(row) => row.try_get_unchecked(column),
                Self::Sqlite(row) => row.try_get_unchecked(column),
            }
            .map_err(|error| unreadable(column, &error))
        }
    };
}

impl Row {
    getter! {
        /// An integer column.
        int, opt_int, i64
    }
    getter! {
        /// A binary column.
        bytes, opt_bytes, Vec<u8>
    }
    getter! {
        /// A text column.
        text, opt_text, String
    }

    /// A column with eight bytes: a key.
    ///
    /// # Errors
    /// When it is not that.
    pub fn key(&self, column: usize) -> Result<crate::ids::UserKey> {
        crate::ids::UserKey::from_bytes(&self.bytes(column)?)
            .ok_or_else(|| corrupt("a key does not have 8 bytes"))
    }

    /// A column with a conversation id.
    ///
    /// # Errors
    /// When it is not that.
    pub fn conversation(&self, column: usize) -> Result<crate::ids::ConversationId> {
        let bytes = self.bytes(column)?;
        crate::ids::ConversationId::from_bytes(&bytes)
            .ok_or_else(|| corrupt("a conversation id does not have 16 bytes"))
    }

    /// A column with a user id.
    ///
    /// # Errors
    /// When it is not that.
    pub fn user(&self, column: usize) -> Result<crate::ids::UserId> {
        user_from(self.bytes(column)?)
    }

    /// A column with a user id or NULL.
    ///
    /// # Errors
    /// When it is neither.
    pub fn opt_user(&self, column: usize) -> Result<Option<crate::ids::UserId>> {
        self.opt_bytes(column)?.map(user_from).transpose()
    }
}

fn user_from(bytes: Vec<u8>) -> Result<crate::ids::UserId> {
    let text = String::from_utf8(bytes).map_err(|_| corrupt("a user id is not UTF-8"))?;
    crate::ids::UserId::new(text).map_err(|error| corrupt(error.0))
}

/// A column that the statement selects, but whose value is not of the type that its table gives it.
fn unreadable(column: usize, error: &sqlx::Error) -> Error {
    match error {
        sqlx::Error::ColumnIndexOutOfBounds { .. } | sqlx::Error::ColumnNotFound(_) => {
            Error::Unexpected("a column that was not selected")
        }
        _ => Error::corrupt(format_args!("column {column} of a row: {error}")),
    }
}

fn corrupt(what: &str) -> Error {
    Error::corrupt(what)
}

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
        let guard = Arc::new(Guard::new(identity, url.clone()));
        Self::prepare(url, settings, lanes, (File::Use, Some(guard)))
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

#[derive(Debug)]
enum Raw {
    MySql(Pooled<MySql>),
    Sqlite(Pooled<Sqlite>),
}

impl Raw {
    /// Ends the connection without a word, which makes the database roll back.
    fn discard(self, doubt: bool) {
        match self {
            Self::MySql(connection) => connection.discard(doubt),
            Self::Sqlite(connection) => connection.discard(doubt),
        }
    }
}

/// How a statement came to have no answer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection ended.
    Ended,
    /// The database said that it cannot do it now.
    Refused,
    /// It said nothing for as long as a statement may take.
    Silent,
}

/// Is told how each statement went, and puts failures into its own terms.
pub(crate) trait Observer: Send + Sync + std::fmt::Debug {
    /// The database answered, if only that the statement is wrong or met others.
    fn answered(&self);

    /// What it answered was a commit.
    fn committed(&self);

    /// It did not; `words` say why.
    fn failed(&self, failure: Failure, words: &str) -> Error;
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Nothing.
    Idle,
    /// A statement, or its answer was not waited for.
    Busy,
    /// It failed, and perhaps others like it.
    Failed,
}

/// A connection out of a pool, on loan until its deadline. Dropped in the middle of anything, it undoes it.
#[derive(Debug)]
pub struct Connection {
    raw: Option<Raw>,
    deadline: Instant,
    statement_timeout: Duration,
    guard: Option<Arc<Guard>>,
    observer: Option<Arc<dyn Observer>>,
    state: Use,
    in_transaction: bool,
    /// Its session does not commit by itself: a transaction begins with its first statement.
    begins_by_itself: bool,
    #[cfg(feature = "explain")]
    watched: Option<String>,
    #[cfg(feature = "steps")]
    stepped: Option<Stepped>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(raw) = self.raw.take() else {
            return;
        };
        #[cfg(feature = "steps")]
        if let Some(stepped) = &self.stepped {
            return raw.give_back(stepped, self.in_transaction);
        }
        // A drop cannot wait for a ROLLBACK. It comes to that only when a request is given up half-way.
        if self.state != Use::Idle || self.in_transaction {
            raw.discard(self.state == Use::Failed);
        }
    }
}

/// Runs a statement on MySQL. When the server has no room for another prepared one, it is sent as text, and what this
/// connection holds is given back.
macro_rules! on_mysql {
    ($connection:ident, $statement:ident, $args:ident, $method:ident) => {{
        let sql = Dialect::MySql.render($statement);
        match bound!(sql, $args).$method(&mut **$connection).await {
            Err(error) if mysql::lacks_room(&error) => {
                mysql::give_statements_back($connection).await?;
                let text = mysql::as_text(&Dialect::MySql.render($statement), $args);
                sqlx::raw_sql(AssertSqlSafe(text))
                    .$method(&mut **$connection)
                    .await
            }
            outcome => outcome,
        }
    }};
}

macro_rules! on_sqlite {
    ($connection:ident, $statement:ident, $args:ident, $method:ident) => {{
        let sql = Dialect::Sqlite.render($statement);
        bound!(sql, $args).$method(&mut **$connection).await
    }};
}

/// Runs `$mysql` or `$sqlite` with `$connection` bound to the driver's connection, under the statement's deadline.
macro_rules! in_time {
    ($self:ident, $connection:ident => $mysql:expr, $sqlite:expr) => {{
        $self.state = Use::Busy;
        let own_limit = Instant::now() + $self.statement_timeout;
        let limit = own_limit.min($self.deadline).into();
        let outcome = match &mut $self.raw {
            Some(Raw::MySql($connection)) => {
                tokio::time::timeout_at(limit, async { $mysql }).await
            }
            Some(Raw::Sqlite($connection)) => {
                let statement = async { $sqlite };
                #[cfg(feature = "steps")]
                let statement = steps::at_once($self.stepped.is_some(), statement);
                tokio::time::timeout_at(limit, statement).await
            }
            None => return Err(Error::Unexpected("a connection was used after its end")),
        };
        match outcome {
            Ok(Ok(value)) => {
                $self.state = Use::Idle;
                $self.answered();
                Ok(value)
            }
            Ok(Err(error)) => Err($self.refused(error)),
            // The caller's own hurry says nothing about the database; a statement that takes too long does.
            Err(_) if own_limit <= $self.deadline => Err($self.was_silent()),
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }};
}

impl Connection {
    fn answered(&self) {
        if let Some(observer) = &self.observer {
            observer.answered();
        }
    }

    fn refused(&mut self, error: sqlx::Error) -> Error {
        let failure = match error.as_database_error() {
            Some(_) => Failure::Refused,
            None => Failure::Ended,
        };
        let error = Error::from(error);
        self.state = match error.spares_the_connection() {
            true => Use::Idle,
            false => Use::Failed,
        };
        match error {
            Error::DatabaseUnavailable(words) => self.failed(failure, words),
            error => {
                self.answered();
                error
            }
        }
    }

    fn was_silent(&mut self) -> Error {
        self.state = Use::Failed;
        let limit = self.statement_timeout;
        let words = format!("no answer to a statement within {limit:?}");
        self.failed(Failure::Silent, words)
    }

    fn failed(&self, failure: Failure, words: String) -> Error {
        match &self.observer {
            Some(observer) => observer.failed(failure, &words),
            None => Error::DatabaseUnavailable(words),
        }
    }

    /// Tells `observer` about every statement from now on.
    pub(crate) fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Gives a connection that is kept for several transactions another deadline.
    pub(crate) fn extend(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Whether it gives a sign of life by `deadline`.
    pub(crate) async fn is_alive(&mut self, deadline: Instant) -> bool {
        let is_alive = match &mut self.raw {
            Some(Raw::MySql(connection)) => connection.is_alive(deadline.into()).await,
            Some(Raw::Sqlite(connection)) => connection.is_alive(deadline.into()).await,
            None => false,
        };
        if !is_alive {
            self.state = Use::Failed;
        }
        is_alive
    }

    /// Whether it can be used again: nothing is under way on it, it did not fail, and its database was not found to be
    /// another one.
    pub(crate) fn is_usable(&self) -> bool {
        let refused = self.guard.as_ref().is_some_and(|guard| guard.is_refused());
        self.raw.is_some() && self.state == Use::Idle && !refused
    }

    /// Asks the database which one it is; a connection to a wrong one is closed.
    async fn identify(&mut self) -> Result<()> {
        let Some(guard) = self.guard.clone() else {
            return Ok(());
        };
        let found = identity::read(self).await?;
        let compared = guard.compare(found.as_ref());
        if compared.is_err() {
            self.state = Use::Failed;
        }
        compared
    }

    /// The SQL it speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.raw {
            Some(Raw::Sqlite(_)) => Dialect::Sqlite,
            _ => Dialect::MySql,
        }
    }

    /// All rows of a statement.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] past the statement timeout, else what the database says.
    pub async fn fetch_all(&mut self, statement: &str, args: &[Value<'_>]) -> Result<Vec<Row>> {
        #[cfg(feature = "explain")]
        self.explain(statement, args).await?;
        #[cfg(feature = "steps")]
        self.read(statement, args).await;
        in_time!(self, connection => {
            let rows = on_mysql!(connection, statement, args, fetch_all);
            rows.map(|rows| rows.into_iter().map(Row::MySql).collect())
        }, {
            let rows = on_sqlite!(connection, statement, args, fetch_all);
            rows.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
        })
    }

    /// The first row of a statement, if it has any.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`].
    pub async fn fetch_optional(
        &mut self,
        statement: &str,
        args: &[Value<'_>],
    ) -> Result<Option<Row>> {
        #[cfg(feature = "explain")]
        self.explain(statement, args).await?;
        #[cfg(feature = "steps")]
        self.read(statement, args).await;
        in_time!(self, connection => {
            let row = on_mysql!(connection, statement, args, fetch_optional);
            row.map(|row| row.map(Row::MySql))
        }, {
            let row = on_sqlite!(connection, statement, args, fetch_optional);
            row.map(|row| row.map(Row::Sqlite))
        })
    }

    /// Runs a statement and says how many rows it touched.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`].
    pub async fn execute(&mut self, statement: &str, args: &[Value<'_>]) -> Result<u64> {
        #[cfg(feature = "explain")]
        self.explain(statement, args).await?;
        #[cfg(feature = "steps")]
        self.turn(statement).await;
        let done = in_time!(self, connection => {
            let done = on_mysql!(connection, statement, args, execute);
            done.map(|done| done.rows_affected())
        }, {
            let done = on_sqlite!(connection, statement, args, execute);
            done.map(|done| done.rows_affected())
        });
        #[cfg(feature = "steps")]
        self.wrote(statement, args, &done);
        done
    }

    /// Runs a statement that cannot be prepared, and has no values.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`].
    pub async fn execute_raw(&mut self, statement: &'static str) -> Result<()> {
        in_time!(self, connection => {
            sqlx::raw_sql(statement).execute(&mut **connection).await.map(drop)
        }, {
            sqlx::raw_sql(statement).execute(&mut **connection).await.map(drop)
        })
    }

    /// Begins a write transaction. SQLite takes its write lock now, so that the transaction cannot fail later for want of it.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`].
    pub async fn begin(&mut self) -> Result<()> {
        #[cfg(feature = "steps")]
        self.turn_of_transaction(Access::Transaction).await;
        match self.dialect() {
            Dialect::MySql if self.begins_by_itself => {}
            Dialect::MySql => self.execute_raw("START TRANSACTION").await?,
            Dialect::Sqlite => self.execute_raw("BEGIN IMMEDIATE").await?,
        }
        self.in_transaction = true;
        Ok(())
    }

    /// Begins a transaction that only reads, all of it as of one moment; [`Connection::commit`] ends it.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`].
    pub async fn begin_snapshot(&mut self) -> Result<()> {
        #[cfg(feature = "steps")]
        self.turn_of_transaction(Access::Snapshot).await;
        match self.dialect() {
            Dialect::MySql => {
                // For this transaction only: in READ COMMITTED each statement would read as of its own moment.
                self.execute_raw("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    .await?;
                self.execute_raw("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
                    .await?;
            }
            Dialect::Sqlite => self.execute_raw("BEGIN").await?,
        }
        self.in_transaction = true;
        Ok(())
    }

    /// Commits.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`]. After an error it is not known whether the transaction is committed.
    pub async fn commit(&mut self) -> Result<()> {
        self.execute_raw("COMMIT").await?;
        self.in_transaction = false;
        if let Some(observer) = &self.observer {
            observer.committed();
        }
        #[cfg(feature = "steps")]
        self.ended(true);
        Ok(())
    }

    /// Undoes the transaction. If even that fails, the connection is closed, which undoes it as well.
    pub async fn rollback(&mut self) {
        if self.state == Use::Idle
            && self.in_transaction
            && self.execute_raw("ROLLBACK").await.is_ok()
        {
            self.in_transaction = false;
            #[cfg(feature = "steps")]
            self.ended(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_written_once() {
        let statement =
            "INSERT INTO t (a, b) VALUES (?, ?) {on_duplicate a} b = {greatest}(b, {new b})";
        assert_eq!(
            Dialect::MySql.render(statement),
            "INSERT INTO t (a, b) VALUES (?, ?) ON DUPLICATE KEY UPDATE b = GREATEST(b, VALUES(b))"
        );
        assert_eq!(
            Dialect::Sqlite.render(statement),
            "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a) DO UPDATE SET b = MAX(b, excluded.b)"
        );
        assert_eq!(Dialect::Sqlite.render("SELECT 1 {for_update}"), "SELECT 1 ");
    }

    #[test]
    fn lists_have_as_many_placeholders_as_asked() {
        assert_eq!(placeholders(3), "?, ?, ?");
        assert_eq!(placeholders(0), "");
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 7, 9, 13, 100].map(list_size),
            [0, 1, 2, 3, 4, 6, 8, 12, 16, 128]
        );
        assert_eq!(
            padded(&[1, 2, 3, 4, 5]).copied().collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 5]
        );
        assert_eq!(padded::<u8>(&[]).count(), 0);
        assert_eq!(rows_of(2, 2), "(?, ?), (?, ?)");
        let condition = in_rows(["a", "b"], 2);
        assert_eq!(
            Dialect::MySql.render(&condition),
            "(a, b) IN ((?, ?), (?, ?))"
        );
        assert_eq!(
            Dialect::Sqlite.render(&condition),
            "(a, b) IN (VALUES (?, ?), (?, ?))"
        );
    }
}
