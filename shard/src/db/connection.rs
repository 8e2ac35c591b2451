//! A connection on loan: statements and transactions on it, each with its deadline.
//!
//! Dropped in the middle of a transaction it rolls back, dropped in the middle of a statement it is closed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, TryStreamExt as _};
use sqlx::AssertSqlSafe;

use super::batch::{self, Answer};
use super::guard::Guard;
use super::identity::{self, Identity, OtherWriter};
use super::mysql::{self, MySql};
use super::pool::Pooled;
use super::sqlite::Sqlite;
use super::value::bound;
use super::{Dialect, Row, Value};
use crate::error::{Error, Result};
#[cfg(feature = "steps")]
use crate::steps::{self, Access, Stepped};

/// The driver's connection.
#[derive(Debug)]
pub(super) enum Raw {
    MySql(Pooled<MySql>),
    Sqlite(Pooled<Sqlite>),
}

impl Raw {
    /// Ends the connection without a word, which makes the database roll back.
    pub(super) fn discard(self, doubt: bool) {
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
pub(super) enum Use {
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
    pub(super) raw: Option<Raw>,
    pub(super) deadline: Instant,
    pub(super) statement_timeout: Duration,
    pub(super) guard: Option<Arc<Guard>>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) state: Use,
    pub(super) in_transaction: bool,
    /// Its session does not commit by itself: a transaction begins with its first statement.
    pub(super) begins_by_itself: bool,
    #[cfg(feature = "explain")]
    pub(super) watched: Option<String>,
    #[cfg(feature = "steps")]
    pub(super) stepped: Option<Stepped>,
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

/// Gives rows to `take` until it wants no more; with `to_end`, the rest is read and dropped.
async fn give<R>(
    mut rows: impl Stream<Item = sqlx::Result<R>> + Unpin,
    to_end: bool,
    mut take: impl FnMut(R) -> bool,
) -> sqlx::Result<()> {
    let mut wants_more = true;
    while let Some(row) = rows.try_next().await? {
        wants_more = wants_more && take(row);
        if !wants_more && !to_end {
            break;
        }
    }
    Ok(())
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

    /// What the database says it is; nothing in one of an older version, and in one that is not a deployment's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn identity(&mut self) -> Result<Option<Identity>> {
        identity::found(self.fetch_optional(identity::SELECT, &[]).await)
    }

    /// Asks the database which one it is; a connection to a wrong one is closed.
    pub(super) async fn identify(&mut self) -> Result<()> {
        let Some(guard) = self.guard.clone() else {
            return Ok(());
        };
        let found = self.identity().await?;
        let mut other = None;
        if self.dialect() == Dialect::MySql && guard.asks_for_writer() {
            let answer = self.fetch_optional(identity::SELECT_OTHER_WRITER, &[]);
            other = OtherWriter::found(answer.await)?;
        }
        let compared = guard.compare(found.as_ref(), other.as_ref());
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

    /// Gives the rows of a statement to `take`, one after the other, until it breaks.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`], and what `take` gives.
    pub async fn fetch_while(
        &mut self,
        statement: &str,
        args: &[Value<'_>],
        mut take: impl FnMut(Row) -> Result<ControlFlow<()>> + Send,
    ) -> Result<()> {
        #[cfg(feature = "explain")]
        self.explain(statement, args).await?;
        #[cfg(feature = "steps")]
        self.read(statement, args).await;
        let mut taken = Ok(ControlFlow::Continue(()));
        let mut wants_more = |row: Row| {
            taken = take(row);
            matches!(taken, Ok(ControlFlow::Continue(())))
        };
        in_time!(self, connection => {
            // To its end, since the connection is of no use before the answer is over.
            let sql = Dialect::MySql.render(statement);
            let rows = bound!(sql, args).fetch(&mut **connection);
            match give(rows, true, |row| wants_more(Row::MySql(row))).await {
                Err(error) if mysql::lacks_room(&error) => {
                    mysql::give_statements_back(connection).await?;
                    let text = mysql::as_text(&Dialect::MySql.render(statement), args);
                    let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch(&mut **connection);
                    give(rows, true, |row| wants_more(Row::MySql(row))).await
                }
                outcome => outcome,
            }
        }, {
            let sql = Dialect::Sqlite.render(statement);
            let rows = bound!(sql, args).fetch(&mut **connection);
            give(rows, false, |row| wants_more(Row::Sqlite(row))).await
        })?;
        taken.map(drop)
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

    /// The answers to statements that a server is sent as one text; see [`Connection::run_all`].
    pub(super) async fn answers_to(&mut self, text: String) -> Result<Vec<Answer>> {
        in_time!(self, connection => batch::answers(connection, text).await, {
            let _: &mut Pooled<Sqlite> = connection;
            Err(sqlx::Error::Protocol("SQLite runs one statement at a time".into()))
        })
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
