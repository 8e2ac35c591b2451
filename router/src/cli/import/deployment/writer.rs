//! From batches to the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use backscroll_shard::dump::Part;
use backscroll_shard::ids::ConversationId;
use futures_util::future::try_join_all;
use tokio::sync::mpsc::Receiver;

use super::super::patience::patiently;
use super::super::writer::StoreRef;
use super::feed::Batch;
use crate::cli::progress::Tally;

/// Conversations that are left alone, each with why.
type Refused = BTreeMap<ConversationId, &'static str>;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Rows that are no messages.
    pub rows: u64,
    /// Conversations that were left alone, each with why.
    pub refused: Refused,
}

/// Writes everything that comes through `queues`.
///
/// # Errors
/// At the first batch that cannot be stored; running the import again goes on there.
pub(super) async fn write_all(
    store: &StoreRef,
    queues: Vec<Receiver<Batch>>,
    tally: &Tally,
) -> anyhow::Result<Written> {
    let refused = Mutex::new(Refused::new());
    let writer = Writer {
        store,
        tally,
        refused: &refused,
    };
    let writers = queues.into_iter().map(|queue| writer.run(queue));
    let rows = try_join_all(writers).await?.into_iter().sum();
    let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Written { rows, refused })
}

struct Writer<'a> {
    store: &'a StoreRef,
    tally: &'a Tally,
    /// Known to all writers: what users have of these conversations is left alone, too.
    refused: &'a Mutex<Refused>,
}

impl Writer<'_> {
    /// Writes what comes through one queue; gives the rows that are no messages.
    async fn run(&self, mut queue: Receiver<Batch>) -> anyhow::Result<u64> {
        let store = self.store;
        let mut written = 0;
        while let Some(batch) = queue.recv().await {
            match batch {
                Batch::Users(mut rows) => {
                    rows.retain(|row| !row.about().is_some_and(|id| self.is_refused(id)));
                    let stored = patiently(|| store.take_users(&rows)).await;
                    written += stored.context("rows of users")?;
                }
                Batch::Part(part) => {
                    let taken = self.take(&part).await;
                    written += taken.with_context(|| format!("conversation {}", part.id))?;
                }
                Batch::Deleted(id, at) => patiently(|| store.take_deletion(id, at))
                    .await
                    .with_context(|| format!("conversation {id}"))?,
                Batch::Channel(channel) => patiently(|| store.take_channel(&channel)).await?,
                Batch::Wait(barrier) => {
                    barrier.wait().await;
                }
            }
        }
        Ok(written)
    }

    fn is_refused(&self, id: ConversationId) -> bool {
        let refused = self.refused.lock();
        refused
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&id)
    }

    async fn take(&self, part: &Part) -> anyhow::Result<u64> {
        let taken = patiently(|| self.store.take_part(part)).await?;
        self.tally.add_done(part.messages.len() as u64);
        self.tally.add_stored(taken.messages);
        if let Some(why) = taken.refused {
            let refused = self.refused.lock();
            refused
                .unwrap_or_else(PoisonError::into_inner)
                .insert(part.id, why);
        }
        Ok(taken.rows)
    }
}
