//! No connection is handed out to a database that is not the one its address stands for (INV-OWNER).
//!
//! A new connection is asked which database it leads to ([`crate::identity`]) before the pool has it, so a request costs no
//! statement for that. A pooled connection may come to lead elsewhere only behind a proxy, or when its database is
//! exchanged under it: [`super::Database::ping`] asks for that from time to time, and from a refusal on every connection is
//! asked until one leads to the right database again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::{MySqlConnection, SqliteConnection};
use tokio::sync::watch;

use super::Row;
use crate::error::{Error, Result, StatementFault};
use crate::identity::{self, Identity};
use crate::ids::Incarnation;
use crate::settings::DatabaseUrl;

/// What a database has to say it is.
#[derive(Debug)]
pub(super) struct Guard {
    expected: RwLock<Identity>,
    address: DatabaseUrl,
    refused: AtomicBool,
    refusals: watch::Sender<Option<Arc<str>>>,
}

impl Guard {
    pub(super) fn new(expected: Identity, address: DatabaseUrl) -> Self {
        Self {
            expected: RwLock::new(expected),
            address,
            refused: AtomicBool::new(false),
            refusals: watch::Sender::new(None),
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

    /// Waits for the next refusal, of whichever connection.
    pub(super) async fn refusal(&self) -> Error {
        let mut refusals = self.refusals.subscribe();
        loop {
            if refusals.changed().await.is_err() {
                return std::future::pending().await; // it ends with the guard, whose user waits here
            }
            if let Some(why) = &*refusals.borrow_and_update() {
                return Error::WrongDatabase(why.to_string());
            }
        }
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
        let why = outcome.as_ref().err().map(|why| Arc::from(why.to_string()));
        self.refused.store(why.is_some(), Ordering::Relaxed);
        self.refusals.send_replace(why);
        Ok(outcome?)
    }

    /// Asks a new connection, before the pool has it.
    pub(super) async fn admit_mysql(&self, connection: &mut MySqlConnection) -> sqlx::Result<()> {
        let answer = sqlx::query(identity::SELECT).fetch_optional(connection);
        self.admit(answer.await.map(|row| row.map(Row::MySql)))
    }

    /// Asks a new connection, before the pool has it.
    pub(super) async fn admit_sqlite(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        let answer = sqlx::query(identity::SELECT).fetch_optional(connection);
        self.admit(answer.await.map(|row| row.map(Row::Sqlite)))
    }

    fn admit(&self, answer: sqlx::Result<Option<Row>>) -> sqlx::Result<()> {
        let found = match answer {
            Ok(row) => row.as_ref().map(Identity::from_row).transpose(),
            Err(error) => match Error::from(&error) {
                Error::Statement {
                    fault: StatementFault::MissingTable,
                    ..
                } => Ok(None),
                _ => return Err(error),
            },
        };
        let compared = found.and_then(|found| self.compare(found.as_ref()));
        compared.map_err(|error| sqlx::Error::Configuration(error.to_string().into()))
    }
}
