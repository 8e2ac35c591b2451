//! Reads and write transactions of what is kept in the directory besides the map.

use std::time::{Duration, Instant};

use super::Directory;
use crate::db::Connection;
use crate::error::{Error, Result};
use crate::transaction::back_off;

/// How often a transaction is made again after contention.
const RETRIES: u32 = 10;

impl Directory {
    /// A connection for reading, for at most `patience`.
    ///
    /// # Errors
    /// [`Error::DirectoryUnavailable`].
    pub(crate) async fn reading(&self, patience: Duration) -> Result<Connection> {
        let reader = self.database.reader(Instant::now() + patience).await;
        reader.map_err(Error::in_directory)
    }

    /// One write transaction, for at most `patience`, made again a few times after contention. `work` gets its connection, and gives it
    /// back with what came of it: an error undoes the transaction.
    ///
    /// # Errors
    /// [`Error::DirectoryUnavailable`], and what `work` gives.
    pub(crate) async fn write<T, F: Future<Output = (Connection, Result<T>)>>(
        &self,
        patience: Duration,
        work: impl Fn(Connection) -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        let mut retries = 0;
        loop {
            match self.attempt(deadline, &work).await {
                Err(Error::Contention(_)) if retries < RETRIES => {
                    tokio::time::sleep(back_off(retries)).await;
                    retries += 1;
                }
                outcome => return outcome.map_err(Error::in_directory),
            }
        }
    }

    async fn attempt<T, F: Future<Output = (Connection, Result<T>)>>(
        &self,
        deadline: Instant,
        work: &impl Fn(Connection) -> F,
    ) -> Result<T> {
        let mut connection = self.database.writer(deadline).await?;
        connection.begin().await?;
        let (mut connection, outcome) = work(connection).await;
        match outcome {
            Ok(value) => connection.commit().await.map(|()| value),
            Err(error) => {
                connection.rollback().await;
                Err(error)
            }
        }
    }
}
