//! No connection is handed out to a database that is not the one its address stands for (INV-OWNER).
//!
//! A new connection is asked which database it leads to ([`crate::identity`]) before the pool has it, so a request costs no
//! statement for that; it is asked in text, because the server may have no room for another prepared statement. A pooled
//! connection may come to lead elsewhere only behind a proxy, or when its database is exchanged under it:
//! [`super::Database::ping`] asks for that from time to time, and from a refusal on every connection is asked until one leads
//! to the right database again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use sqlx::{AssertSqlSafe, MySqlConnection, SqliteConnection};

use super::identity::{self, Identity, OtherWriter, Role};
use super::{Dialect, Row};
use crate::error::{Error, Result};
use crate::ids::Incarnation;
use crate::settings::DatabaseUrl;

/// What a database has to say it is.
#[derive(Debug)]
pub(super) struct Guard {
    expected: RwLock<Identity>,
    address: DatabaseUrl,
    is_written: bool,
    refused: AtomicBool,
}

impl Guard {
    /// Of a database that `is_written`, not only read.
    pub(super) fn new(expected: Identity, address: DatabaseUrl, is_written: bool) -> Self {
        Self {
            expected: RwLock::new(expected),
            address,
            is_written,
            refused: AtomicBool::new(false),
        }
    }

    /// The incarnation that the database had when it was last asked.
    pub(super) fn incarnation(&self) -> Incarnation {
        let expected = self.expected.read();
        expected.unwrap_or_else(PoisonError::into_inner).incarnation
    }

    /// Whether the last connection that was asked led elsewhere.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether it matters which server of a cluster writes the database: the table `writer` is there, and this is no replica.
    pub(super) fn asks_for_writer(&self) -> bool {
        let expected = self.expected.read();
        let role = &expected.unwrap_or_else(PoisonError::into_inner).role;
        self.is_written && *role != Role::Directory
    }

    /// Takes what a database says it is, and which server is to write it if that is another one.
    pub(super) fn compare(
        &self,
        found: Option<&Identity>,
        other: Option<&OtherWriter>,
    ) -> Result<()> {
        let outcome = {
            let mut expected = self
                .expected
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let outcome = expected.require(found, &self.address).and_then(|()| {
                let other = other.map(|it| it.misplaced(&expected.role, &self.address));
                other.map_or(Ok(()), Err)
            });
            if let (Ok(()), Some(found)) = (&outcome, found) {
                expected.incarnation = found.incarnation; // the same, or a database that was adopted since
            }
            outcome
        };
        self.refused.store(outcome.is_err(), Ordering::Relaxed);
        Ok(outcome?)
    }

    /// Asks a new connection, before the pool has it.
    pub(super) async fn admit_mysql(&self, connection: &mut MySqlConnection) -> Result<()> {
        let answer = sqlx::raw_sql(identity::SELECT).fetch_optional(&mut *connection);
        let answer = answer.await.map(|row| row.map(Row::MySql));
        let found = identity::found(answer.map_err(Error::from))?;
        let mut other = None;
        if self.asks_for_writer() {
            let statement = Dialect::MySql.render(identity::SELECT_OTHER_WRITER);
            let answer = sqlx::raw_sql(AssertSqlSafe(statement)).fetch_optional(connection);
            let answer = answer.await.map(|row| row.map(Row::MySql));
            other = OtherWriter::found(answer.map_err(Error::from))?;
        }
        self.compare(found.as_ref(), other.as_ref())
    }

    /// Asks a new connection, before the pool has it.
    pub(super) async fn admit_sqlite(&self, connection: &mut SqliteConnection) -> Result<()> {
        let answer = sqlx::raw_sql(identity::SELECT).fetch_optional(connection);
        let answer = answer.await.map(|row| row.map(Row::Sqlite));
        let found = identity::found(answer.map_err(Error::from))?;
        self.compare(found.as_ref(), None)
    }
}
