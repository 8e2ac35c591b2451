//! From batches to the store. What is stored already must be what the input begins with ([`super::recognise`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use backscroll_shard::error::{Error, Result as StoreResult};
use backscroll_shard::ids::ConversationId;
use backscroll_shard::store::Store;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::sync::mpsc::Receiver;

use super::feed::Batch;
use super::recognise::Recogniser;
use crate::cli::progress::Tally;
use crate::cli::{BadInput, out};

pub(super) type StoreRef = Arc<Store>;

/// How long an import goes on trying while a shard does not answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A conversation that an import made, or went on with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Imported {
    /// Its id.
    pub id: ConversationId,
    /// The channel's name.
    pub title: String,
    /// How many messages of it the input has.
    pub messages: u64,
}

/// Writes everything that comes through `queues`. The conversations, by title.
///
/// # Errors
/// At the first batch that cannot be stored; running the import again goes on there.
pub(super) async fn write_all(
    store: &StoreRef,
    queues: Vec<Receiver<Batch>>,
    tally: &Tally,
) -> anyhow::Result<Vec<Imported>> {
    let writers = queues.into_iter().map(|queue| {
        Writer {
            store,
            tally,
            channels: HashMap::new(),
        }
        .run(queue)
    });
    let mut imported: Vec<Imported> = try_join_all(writers).await?.into_iter().flatten().collect();
    imported.sort_by(|a, b| a.title.cmp(&b.title));
    Ok(imported)
}

struct Writer<'a> {
    store: &'a StoreRef,
    tally: &'a Tally,
    channels: HashMap<String, Channel>,
}

/// How far a conversation is.
struct Channel {
    id: ConversationId,
    /// Messages of the input so far.
    position: u64,
    /// What was stored when this run began.
    stored: Recogniser,
}

impl Writer<'_> {
    async fn run(mut self, mut queue: Receiver<Batch>) -> anyhow::Result<Vec<Imported>> {
        while let Some(batch) = queue.recv().await {
            self.write(&batch)
                .await
                .with_context(|| about(&batch.channel))?;
        }
        let mut imported = Vec::with_capacity(self.channels.len());
        for (title, channel) in self.channels {
            let end = channel.stored.end(self.store).await;
            end.with_context(|| about(&title))?;
            imported.push(Imported {
                id: channel.id,
                title,
                messages: channel.position,
            });
        }
        Ok(imported)
    }

    async fn write(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let store = self.store;
        let channel = match self.channels.entry(batch.channel.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let (channel, owner) = (&batch.channel, &batch.owner);
                let (id, stored) = if batch.is_owner_named {
                    patiently(|| store.import_begin(channel, owner)).await?
                } else {
                    patiently(|| store.import_begin_by_name(channel, owner)).await?
                };
                let batches = match stored {
                    0 => Vec::new(),
                    _ => patiently(|| store.import_batches(id, stored)).await?,
                };
                unknown.insert(Channel {
                    id,
                    position: 0,
                    stored: Recogniser::new(id, stored, batches),
                })
            }
        };
        let found = channel.stored.take(store, batch).await?;
        let (records, position) = (&batch.records[found..], channel.position + found as u64);
        if !records.is_empty() {
            let append = || store.import_append(channel.id, position, records);
            patiently(append).await?;
        }
        let count = batch.records.len();
        channel.position += count as u64;
        self.tally.add_done(count as u64);
        self.tally.add_stored((count - found) as u64);
        Ok(())
    }
}

fn about(channel: &str) -> String {
    format!("conversation `{}`", out::inline(channel))
}

/// Calls until it succeeds, fails for good, or the patience is at an end. Both calls of an import can be repeated.
pub(super) async fn patiently<T, F: Future<Output = StoreResult<T>>>(
    call: impl Fn() -> F,
) -> anyhow::Result<T> {
    let give_up_at = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(100);
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(error)
                if error.is_retryable()
                    && !matches!(error, Error::Closing)
                    && Instant::now() + pause < give_up_at =>
            {
                tracing::warn!(%error, "trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) if error.is_retryable() => {
                return Err(anyhow::Error::new(error)
                    .context("gave up; run the same command again, it goes on where it stopped"));
            }
            Err(error @ (Error::Invalid(_) | Error::Conflict(_))) => {
                return Err(BadInput(error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
