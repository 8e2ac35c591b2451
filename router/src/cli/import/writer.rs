//! From batches to the store, and the check that a resumed import goes on with what it began.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use backscroll_shard::error::{Error, Result as StoreResult};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::HistoryRecord;
use backscroll_shard::store::Store;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::sync::mpsc::Receiver;

use super::feed::Batch;
use crate::cli::BadInput;
use crate::cli::progress::Tally;

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
    /// Messages that were stored when this run began.
    stored_before: u64,
    /// Messages of the input so far.
    position: u64,
}

impl Writer<'_> {
    async fn run(mut self, mut queue: Receiver<Batch>) -> anyhow::Result<Vec<Imported>> {
        while let Some(batch) = queue.recv().await {
            self.write(&batch)
                .await
                .with_context(|| format!("conversation `{}`", batch.channel))?;
        }
        let imported = |(title, channel): (String, Channel)| Imported {
            id: channel.id,
            title,
            messages: channel.position,
        };
        Ok(self.channels.into_iter().map(imported).collect())
    }

    async fn write(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let store = self.store;
        let channel = match self.channels.entry(batch.channel.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let begin = || store.import_begin(&batch.channel, &batch.owner);
                let (id, stored_before) = patiently(begin).await?;
                unknown.insert(Channel {
                    id,
                    stored_before,
                    position: 0,
                })
            }
        };
        let begin = channel.position;
        let count = batch.records.len() as u64;
        let skipped = channel.stored_before.saturating_sub(begin).min(count);
        if skipped > 0 {
            channel.require_same(store, begin, &batch.records).await?;
        }
        if skipped < count {
            let append = || store.import_append(channel.id, begin, &batch.records);
            patiently(append).await?;
        }
        channel.position += count;
        self.tally.add_done(count);
        self.tally.add_stored(count - skipped);
        Ok(())
    }
}

impl Channel {
    /// Of a conversation that was begun before, the first message and the last one stored must be the input's. Otherwise
    /// this is another history under the same name, and skipping its beginning would lose it.
    async fn require_same(
        &self,
        store: &Store,
        begin: u64,
        records: &[HistoryRecord],
    ) -> anyhow::Result<()> {
        let last = self.stored_before;
        let to_check = [1, last]
            .into_iter()
            .filter(|position| (begin + 1..=begin + records.len() as u64).contains(position));
        for position in to_check {
            let stored = patiently(|| store.export(self.id, Seq(position - 1), 2)).await?;
            // After the import, people may have gone on talking: then the last one cannot be told by its number.
            let Some((_, stored)) = stored
                .first()
                .filter(|_| position == 1 || stored.len() == 1)
            else {
                continue;
            };
            let index = usize::try_from(position - begin - 1)?;
            let given = records.get(index).context("the position is in the batch")?;
            if (&stored.user, stored.at) != (&given.user, given.at) {
                return Err(BadInput(format!(
                    "it has {last} messages already, and they are not the beginning of this input: message {position} is from {} at {} \
                     there and from {} at {} here. Import the whole history at once, or give this part another channel name",
                    stored.user, stored.at, given.user, given.at
                ))
                .into());
            }
        }
        Ok(())
    }
}

/// Calls until it succeeds, fails for good, or the patience is at an end. Both calls of an import can be repeated.
async fn patiently<T, F: Future<Output = StoreResult<T>>>(
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
            Err(error @ Error::Invalid(_)) => return Err(BadInput(error.to_string()).into()),
            Err(error) => return Err(error.into()),
        }
    }
}
