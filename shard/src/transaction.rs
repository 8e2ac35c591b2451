//! Transactions on a shard that are run again by themselves.
//!
//! A transaction that was undone because of others (a deadlock, a lock wait) is run again after a while, until it has
//! been tried often enough or its deadline comes. One whose connection was lost before its commit was asked for has
//! changed nothing, and is run again once on another connection: sessions that a server ended, or that it opened while
//! it took no writes, cost their users nothing. Whatever is then still in the way is [`Error::ShardUnavailable`].
//!
//! After a commit that was asked for and not answered it is not known whether it happened, so nothing is run again; a
//! crash leaves the transaction committed or undone as a whole.
//!
//! Write lanes have a loop of their own ([`crate::lane`]): a lane keeps its connection from one transaction to the next,
//! looks up repeated messages on its second attempt, and halves a batch of which the database refuses a part.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::Connection;
use crate::error::{Error, Result};
use crate::metrics;
use crate::node::Shard;

/// How long a shard is asked again for work that no caller waits for, and how often.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

/// How far an attempt had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There was no connection.
    Beginning,
    /// Nothing can have been committed.
    Working,
    /// It may be committed.
    Committing,
}

/// A write transaction that has begun. [`Shard::transaction`] commits it, or undoes it, once its work has dropped this.
#[derive(Debug)]
pub struct Transaction {
    connection: Option<Connection>,
    /// Where the connection is left for that.
    home: Arc<Mutex<Option<Connection>>>,
}

impl Transaction {
    async fn begin(mut connection: Connection) -> Result<Self> {
        connection.begin().await?;
        Ok(Self {
            connection: Some(connection),
            home: Arc::default(),
        })
    }
}

impl Deref for Transaction {
    type Target = Connection;

    #[expect(clippy::expect_used, reason = "only its drop takes it")]
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a connection")
    }
}

impl DerefMut for Transaction {
    #[expect(clippy::expect_used, reason = "only its drop takes it")]
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a connection")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.connection.take();
    }
}

impl Shard {
    /// Runs `work` in a write transaction and commits it. `work` may run several times, each time in a new transaction.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`] when the shard cannot do it now, [`Error::DeadlineExceeded`], or what `work` says; then
    /// the transaction was undone.
    pub async fn transaction<T, F>(
        &self,
        deadline: Instant,
        work: impl Fn(Transaction) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.attempts(deadline, &work).await.0
    }

    /// As [`Shard::transaction`], for work that no caller waits for: a shard that cannot do it now is asked again for some
    /// seconds, unless the transaction may be committed.
    ///
    /// # Errors
    /// As [`Shard::transaction`].
    pub async fn patient_transaction<T, F>(
        &self,
        deadline: Instant,
        work: impl Fn(Transaction) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let until = deadline.min(Instant::now() + PATIENCE);
        loop {
            let (outcome, stage) = self.attempts(deadline, &work).await;
            match outcome {
                Err(Error::ShardUnavailable(_))
                    if stage != Stage::Committing && Instant::now() < until =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempts<T, F>(
        &self,
        deadline: Instant,
        work: &impl Fn(Transaction) -> F,
    ) -> (Result<T>, Stage)
    where
        F: Future<Output = Result<T>>,
    {
        let mut retries = 0;
        let mut reconnected = false;
        loop {
            let (outcome, stage) = self.attempt(deadline, reconnected, work).await;
            match outcome {
                Err(Error::Contention(words)) => {
                    let waited = self.wait_for_others(&mut retries, deadline, &words).await;
                    if let Err(error) = waited {
                        return (Err(error), stage);
                    }
                }
                Err(Error::ShardUnavailable(_)) if stage == Stage::Working && !reconnected => {
                    reconnected = true;
                }
                outcome => return (outcome, stage),
            }
        }
    }

    async fn attempt<T, F>(
        &self,
        deadline: Instant,
        anew: bool,
        work: &impl Fn(Transaction) -> F,
    ) -> (Result<T>, Stage)
    where
        F: Future<Output = Result<T>>,
    {
        let connection = match anew {
            true => self.new_writer(deadline).await,
            false => self.writer(deadline).await,
        };
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => return (Err(error), Stage::Beginning),
        };
        let transaction = match Transaction::begin(connection).await {
            Ok(transaction) => transaction,
            Err(error) => return (Err(error), Stage::Working),
        };
        let home = transaction.home.clone();
        let outcome = work(transaction).await;
        let connection = home.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut connection) = connection else {
            return (
                Err(Error::Unexpected("a transaction outlived its work")),
                Stage::Committing,
            );
        };
        match outcome {
            Ok(value) => {
                let committed = connection.commit().await;
                (committed.map(|()| value), Stage::Committing)
            }
            Err(error) => {
                connection.rollback().await;
                (Err(error), Stage::Working)
            }
        }
    }

    /// Waits before a transaction is run again that met others.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`] when it was run often enough, or would be run past its deadline.
    pub(crate) async fn wait_for_others(
        &self,
        retries: &mut u32,
        deadline: Instant,
        words: &str,
    ) -> Result<()> {
        let wait = back_off(*retries);
        if *retries >= self.max_retries() || Instant::now() + wait >= deadline {
            tracing::warn!(shard = %self.name(), retries, error = words, "a transaction met others too often");
            return Err(Error::ShardUnavailable(self.name().clone()));
        }
        *retries += 1;
        metrics::TRANSACTION_RETRIES
            .with([self.name().to_string()])
            .increment(1);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// 1 to 2 ms, doubling up to 64 to 128 ms, with jitter so that two rivals do not meet again.
pub(crate) fn back_off(retries: u32) -> Duration {
    let base = 1000u64 << retries.min(6);
    Duration::from_micros(base + rand::random_range(0..base))
}
