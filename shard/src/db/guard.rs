//! No connection is handed out to a database that is not the one its address stands for (INV-OWNER).
//!
//! A new connection is asked which database it leads to ([`crate::identity`]) before the pool has it, so a request costs no
//! statement for that; it is asked in text, because the server may have no room for another prepared statement. A pooled
//! connection may come to lead elsewhere only behind a proxy, or when its database is exchanged under it:
//! [`super::Database::ping`] asks for that from time to time, and from a refusal on every connection is asked until one leads
//! to the right database again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use sqlx::{MySqlConnection, SqliteConnection};

use super::Row;
use super::identity::{self, Identity};
use crate::error::{Error, Result};
use crate::ids::Incarnation;
use crate::settings::DatabaseUrl;

/// What a database has to say it is.
#[derive(Debug)]
pub(super) struct Guard {
    expected: RwLock<Identity>,
    address: DatabaseUrl,
    refused: AtomicBool,
}

impl Guard {
    pub(super) fn new(expected: Identity, address: DatabaseUrl) -> Self {
        Self {
            expected: RwLock::new(expected),
            address,
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

    /// Takes what a database says it is.
    pub(super) fn compare(&self, found: Option<&Identity>) -> Result<()> {
        let outcome = {
            let mut expected = self
                .expected
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let outcome = expected.require(found, &self.address);
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
        let answer = sqlx::raw_sql(identity::SELECT).fetch_optional(connection);
        self.admit(answer.await.map(|row| row.map(Row::MySql)))
    }

    /// Asks a new connection, before the pool has it.
    pub(super) async fn admit_sqlite(&self, connection: &mut SqliteConnection) -> Result<()> {
        let answer = sqlx::raw_sql(identity::SELECT).fetch_optional(connection);
        self.admit(answer.await.map(|row| row.map(Row::Sqlite)))
    }

    fn admit(&self, answer: sqlx::Result<Option<Row>>) -> Result<()> {
        let found = identity::found(answer.map_err(Error::from))?;
        self.compare(found.as_ref())
    }
}
