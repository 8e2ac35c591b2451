//! From batches to the store. What is stored already must be what the input begins with ([`super::recognise`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use anyhow::Context as _;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::store::Store;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::sync::mpsc::Receiver;

use super::feed::Batch;
use super::patience::patiently;
use super::recognise::Recogniser;
use crate::cli::out;
use crate::cli::progress::Tally;

pub(super) type StoreRef = Arc<Store>;

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
                let owner = (owner, batch.is_owner_named);
                let begin = || store.import_begin_as(channel, owner, &batch.wanted);
                let (id, stored) = patiently(begin).await?;
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
