//! What operators' commands use: import and export. Authority comes from holding the configuration, not from membership.

use std::time::{Duration, Instant};

use super::Store;
use crate::error::{Error, Result};
use crate::head;
use crate::ids::{ConversationId, Seq, UserId};
use crate::import;
use crate::message;
use crate::model::HistoryRecord;
use crate::owned::{OwnedTransaction, WriteScope};
use crate::stretch::Stretch;

/// How long one step of an import or export may take, retries included.
const STEP: Duration = Duration::from_secs(60);

impl Store {
    /// The conversation that an import of `channel` by `owner` goes to: the same for every run.
    ///
    /// # Errors
    /// When the owner's id does not fit the key function.
    pub fn import_id(&self, channel: &str, owner: &UserId) -> Result<ConversationId> {
        Ok(ConversationId::derived(
            (owner, self.key(owner)?),
            "import",
            channel,
        ))
    }

    /// Makes the conversation for an imported channel unless it is there, and says how many of its records are stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be a title, [`Error::ShardUnavailable`].
    pub async fn import_begin(
        &self,
        channel: &str,
        owner: &UserId,
    ) -> Result<(ConversationId, u64)> {
        import::check_channel(channel)?;
        let id = self.import_id(channel, owner)?;
        let deadline = Instant::now() + STEP;
        let stored = self
            .router
            .call(id.owner_key(), deadline, |shard, assignment| async move {
                let begin = |mut rows: OwnedTransaction<'static>| async move {
                    import::begin(&mut rows, id, (channel, owner)).await
                };
                let scope = WriteScope::conversation(&assignment, id);
                shard.write(&scope, deadline, begin).await
            })
            .await?;
        Ok((id, stored))
    }

    /// Appends `records`, the first of which is number `position + 1` of its channel; those stored already are skipped.
    /// Gives the number of records stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] about a record (nothing of the batch is stored then), [`Error::ShardUnavailable`].
    pub async fn import_append(
        &self,
        id: ConversationId,
        position: u64,
        records: &[HistoryRecord],
    ) -> Result<u64> {
        for user in records.iter().map(|record| &record.user) {
            self.key(user)?;
        }
        let deadline = Instant::now() + STEP;
        self.router
            .call(id.owner_key(), deadline, |shard, assignment| async move {
                let append = |mut rows: OwnedTransaction<'static>| async move {
                    let target = (id, position);
                    import::append(&mut rows, target, records, self.settings()).await
                };
                let scope = WriteScope::conversation(&assignment, id);
                let stored = shard.write(&scope, deadline, append).await?;
                self.hint(&shard, id);
                Ok(stored)
            })
            .await
    }

    /// Up to `limit` messages after `after`, hot and archived alike, in order; empty at the end.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ArchiveUnavailable`], [`Error::ShardUnavailable`].
    pub async fn export(
        &self,
        id: ConversationId,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<(Seq, HistoryRecord)>> {
        let deadline = Instant::now() + STEP;
        self.router
            .call(id.owner_key(), deadline, |shard, assignment| async move {
                let mut last = after;
                loop {
                    let mut rows = shard.read(&assignment, deadline).await?;
                    let head = head::read(&mut rows, &[id]).await?.pop();
                    let head = head.filter(|head| head.deleted_at.is_none());
                    let head = head.ok_or(Error::NotFound("conversation"))?;
                    let range = (
                        last.next(),
                        Seq(last.0.saturating_add(u64::from(limit)).min(head.head_seq.0)),
                    );
                    if range.0 > range.1 {
                        return Ok(Vec::new());
                    }
                    let hot = message::rows(&mut rows, id, range).await?;
                    let stretch = Stretch {
                        shard: &shard,
                        assignment: &assignment,
                        cold: self.cold.as_ref(),
                        id,
                        range,
                        deadline,
                    };
                    let merged = stretch.read(rows, (head.rev, hot)).await?;
                    if merged.unavailable.is_some() {
                        return Err(Error::ArchiveUnavailable);
                    }
                    if !merged.messages.is_empty() {
                        let channel = head.title.unwrap_or_else(|| id.to_string());
                        let records = merged.messages.into_iter();
                        let records = records.map(|message| import::to_record(message, &channel));
                        return Ok(records.collect());
                    }
                    last = range.1; // all of these were dropped when their retention ended
                }
            })
            .await
    }
}
