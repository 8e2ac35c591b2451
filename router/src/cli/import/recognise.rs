//! Whether an input begins with what was imported before.
//!
//! The store keeps a digest of the records at the end of each batch that it stored. The input's is compared there, so neither
//! what people wrote in the conversation since nor what became of the messages matters. Where it differs, the messages of
//! that batch are read to name the first line that is not what was imported.

use std::collections::VecDeque;

use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::import::{self, ImportedBatch};
use backscroll_shard::model::HistoryRecord;
use backscroll_shard::store::Store;

use super::feed::Batch;
use super::patience::patiently;
use crate::cli::{BadInput, out};

/// Most messages read at once.
const PAGE: u32 = 1000;
/// How much of a text is shown.
const SHOWN_CHARACTERS: usize = 60;

/// Compares what was stored of a channel with what comes.
pub(super) struct Recogniser {
    id: ConversationId,
    /// Messages that were stored when this run began.
    stored: u64,
    /// The batches that have not been reached.
    batches: VecDeque<ImportedBatch>,
    /// Messages of the input that were compared.
    position: u64,
    digest: u64,
    /// What places in the input count.
    unit: &'static str,
    /// Those since the last batch that was reached, with their lines.
    since: Vec<(u64, HistoryRecord)>,
}

impl Recogniser {
    /// For a channel of which `stored` messages are stored, in `batches`.
    pub(super) fn new(id: ConversationId, stored: u64, batches: Vec<ImportedBatch>) -> Self {
        Self {
            id,
            stored,
            batches: batches.into(),
            position: 0,
            digest: 0,
            unit: "line",
            since: Vec::new(),
        }
    }

    /// Takes the messages of `batch` that were stored before; says how many these are.
    ///
    /// # Errors
    /// [`BadInput`] naming the first line that is not what was imported.
    pub(super) async fn take(&mut self, store: &Store, batch: &Batch) -> anyhow::Result<usize> {
        let found = (self.stored - self.position).min(batch.records.len() as u64);
        let found = usize::try_from(found)?;
        self.unit = batch.unit;
        for (line, record) in batch.lines.iter().zip(&batch.records[..found]) {
            self.digest = import::digest(self.digest, record);
            self.position += 1;
            self.since.push((*line, record.clone()));
            let Some(reached) = self.batches.front().copied() else {
                continue;
            };
            // What no digest is known of is compared message by message, and not all of it is kept for that.
            let is_end = reached.last_record == self.position;
            let is_unknown = reached.digest.is_none() && self.since.len() >= PAGE as usize;
            if !is_end && !is_unknown {
                continue;
            }
            if is_end {
                self.batches.pop_front();
            }
            if reached.digest != Some(self.digest) {
                self.compare(store, reached, reached.digest.is_some())
                    .await?;
            }
            if reached.digest.is_none() {
                self.digest = 0;
            }
            self.since.clear();
        }
        Ok(found)
    }

    /// The input has no more messages of the channel.
    ///
    /// # Errors
    /// As [`Recogniser::take`].
    pub(super) async fn end(&self, store: &Store) -> anyhow::Result<()> {
        match self.batches.front() {
            Some(batch) if !self.since.is_empty() => self.compare(store, *batch, false).await,
            _ => Ok(()),
        }
    }

    /// Compares the messages since the last batch that was reached, which belong to `batch`, one by one; `differ` says that one
    /// of them is known to differ.
    async fn compare(
        &self,
        store: &Store,
        batch: ImportedBatch,
        differ: bool,
    ) -> anyhow::Result<()> {
        let first = self.position + 1 - self.since.len() as u64;
        // Batches have consecutive seqs, counted back from the end.
        let seq = |record: u64| batch.last_seq.0.saturating_sub(batch.last_record - record);
        let mut after = Seq(seq(first).saturating_sub(1));
        let mut rest = self.since.as_slice();
        while !rest.is_empty() {
            let stored = patiently(|| store.export(self.id, after, PAGE)).await?;
            let Some((last, _)) = stored.last() else {
                break; // dropped when its retention ended
            };
            after = *last;
            for (at, stored) in &stored {
                let place = at.0.checked_sub(seq(first));
                let place = place.and_then(|place| usize::try_from(place).ok());
                let given = place.and_then(|place| Some((place, self.since.get(place)?)));
                let Some((place, (line, given))) = given else {
                    rest = &[];
                    break;
                };
                if let Some(what) = difference(given, stored) {
                    let number = first + place as u64;
                    let unit = self.unit;
                    return Err(
                        self.refusal(format_args!("{unit} {line} (message {number}): {what}"))
                    );
                }
                rest = &self.since[place + 1..];
            }
        }
        match (differ, self.since.first(), self.since.last()) {
            (true, Some((first, _)), Some((last, _))) => Err(self.refusal(format_args!(
                "one of its messages in {}s {first} to {last} is another now",
                self.unit
            ))),
            _ => Ok(()),
        }
    }

    fn refusal(&self, what: std::fmt::Arguments<'_>) -> anyhow::Error {
        let stored = out::counted(self.stored, "message");
        BadInput(format!(
            "{stored} of it are stored, and they are not the beginning of this input; nothing was changed. {what}. Import the \
             history as it was, with what is new at its end, or give this part another channel name"
        ))
        .into()
    }
}

/// How a line differs from what is stored; an edited or deleted message may have another text by now.
fn difference(given: &HistoryRecord, stored: &HistoryRecord) -> Option<String> {
    if (&given.user, given.at) != (&stored.user, stored.at) {
        let of = |record: &HistoryRecord| format!("from {} at {}", record.user, record.at);
        return Some(format!("{} here, {} there", of(given), of(stored)));
    }
    let is_as_sent = stored.edited_at == given.edited_at && stored.deleted_at == given.deleted_at;
    if is_as_sent && given.deleted_at.is_none() && given.text != stored.text {
        let shown = |text: &str| text.chars().take(SHOWN_CHARACTERS).collect::<String>();
        let (here, there) = (shown(&given.text), shown(&stored.text));
        return Some(format!("{here:?} here, {there:?} there"));
    }
    None
}
