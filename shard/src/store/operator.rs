//! What operators' commands use: import and export. Authority comes from holding the configuration, not from membership.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Store;
use crate::error::{Error, Result};
use crate::head::{self, Head};
use crate::ids::{ConversationId, Seq, UserId};
use crate::import::{self, Begun, ImportedAs, ImportedBatch};
use crate::imported_channels::{self, Name};
use crate::map::Assignment;
use crate::message::{self, MessageRow, Room, Shown};
use crate::model::{ConversationKind, HistoryRecord};
use crate::node::Shard;
use crate::owned::{OwnedTransaction, WriteScope};
use crate::stretch::{Merged, Stretch};

/// How long one step of an import or export may take, retries included.
pub(super) const STEP: Duration = Duration::from_secs(60);

impl Store {
    /// Makes the conversation for an imported channel unless it is there, and says how many of its records are stored. The
    /// channel is known by its owner and its name, and so is its conversation's id, unless that is one that was deleted.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be a title, [`Error::ShardUnavailable`], [`Error::DatabaseUnavailable`] of
    /// the directory.
    pub async fn import_begin(
        &self,
        channel: &str,
        owner: &UserId,
    ) -> Result<(ConversationId, u64)> {
        let wanted = ImportedAs::channel();
        self.import_begin_as(channel, (owner, true), &wanted).await
    }

    /// The same for a channel that is known by its name only; `first` owns it, and is where it is stored, if it is new.
    ///
    /// # Errors
    /// As [`Store::import_begin`].
    pub async fn import_begin_by_name(
        &self,
        channel: &str,
        first: &UserId,
    ) -> Result<(ConversationId, u64)> {
        let wanted = ImportedAs::channel();
        self.import_begin_as(channel, (first, false), &wanted).await
    }

    /// The same for any kind of conversation, with members who need not write. `is_named` says that the channel is known by
    /// its owner, too. A direct conversation is known by its two members, and is the one that they find when they begin one.
    ///
    /// # Errors
    /// As [`Store::import_begin`]; [`Error::Conflict`] when there is such a conversation of another kind, or a direct one that
    /// has messages; [`Error::LimitReached`] for too many members.
    pub async fn import_begin_as(
        &self,
        channel: &str,
        (owner, is_named): (&UserId, bool),
        wanted: &ImportedAs,
    ) -> Result<(ConversationId, u64)> {
        import::check_channel(channel)?;
        let named = wanted.members.iter().map(|(user, _)| user);
        for user in named.chain([owner]) {
            user.check_new()?;
            self.key(user)?;
        }
        if wanted.kind == ConversationKind::Direct {
            return self.begin_direct((channel, owner), wanted).await;
        }
        let name = match is_named {
            true => Name::owned(channel, owner),
            false => Name::unowned(channel),
        };
        self.begin_channel(&name, (channel, owner), wanted).await
    }

    async fn begin_direct(
        &self,
        (channel, owner): (&str, &UserId),
        wanted: &ImportedAs,
    ) -> Result<(ConversationId, u64)> {
        let other = match wanted.members.as_slice() {
            [(me, _)] => me,
            [(one, _), (other, _)] if one == owner => other,
            [(one, _), (other, _)] if other == owner => one,
            _ => {
                return Err(Error::invalid(
                    "members",
                    "a direct conversation has two members, or one for notes, and who writes is among them",
                ));
            }
        };
        let pair = ((owner, self.key(owner)?), (other, self.key(other)?));
        let id = ConversationId::direct(pair.0, pair.1, 0);
        let deadline = Instant::now() + STEP;
        let begin = self.begin_import(id, (channel, owner), wanted, deadline);
        match begin.await? {
            Begun::Stored(stored) => Ok((id, stored)),
            Begun::Deleted => Err(Error::Conflict("this direct conversation was deleted")),
        }
    }

    async fn begin_channel(
        &self,
        name: &Name,
        (channel, owner): (&str, &UserId),
        wanted: &ImportedAs,
    ) -> Result<(ConversationId, u64)> {
        let deadline = Instant::now() + STEP;
        let directory = self.router.directory().database();
        loop {
            let Some(id) = imported_channels::find(directory, name, deadline).await? else {
                let id = ConversationId::derived((owner, self.key(owner)?), "import", channel);
                imported_channels::enter(directory, name, id, deadline).await?;
                continue; // another process may have entered another
            };
            let begin = self.begin_import(id, (channel, owner), wanted, deadline);
            match begin.await? {
                Begun::Stored(stored) => return Ok((id, stored)),
                Begun::Deleted => {
                    let new = ConversationId::new(self.key(owner)?, rand::random());
                    let ids = (id, new);
                    imported_channels::replace(directory, name, ids, deadline).await?;
                }
            }
        }
    }

    async fn begin_import(
        &self,
        id: ConversationId,
        (channel, owner): (&str, &UserId),
        wanted: &ImportedAs,
        deadline: Instant,
    ) -> Result<Begun> {
        let key = id.owner_key();
        let begin = |shard: Arc<Shard>, assignment: Assignment| async move {
            let begin = |mut rows: OwnedTransaction<'static>| async move {
                let wanted = (wanted, self.settings());
                import::begin(&mut rows, id, (channel, owner), wanted).await
            };
            let scope = WriteScope::conversation(&assignment, id);
            let begun = shard.write(&scope, deadline, begin).await?;
            self.hint(&shard, id);
            Ok(begun)
        };
        self.router.call(key, deadline, begin).await
    }

    /// What is stored of an imported channel, in order; `stored` is what [`Store::import_begin`] gave.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn import_batches(
        &self,
        id: ConversationId,
        stored: u64,
    ) -> Result<Vec<ImportedBatch>> {
        let deadline = Instant::now() + STEP;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            import::batches(&mut rows, id, (0, stored)).await
        };
        self.router.call(id.owner_key(), deadline, read).await
    }

    /// Appends `records`, the first of which is number `position + 1` of its channel, and gives the number of records stored.
    /// The same again changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] about a record (nothing of the batch is stored then), [`Error::Conflict`] when they do not follow
    /// what is stored, [`Error::ShardUnavailable`].
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

    /// Up to `limit` messages after `after`, and about
    /// [`answer_bytes`](crate::settings::LimitSettings::answer_bytes) of them, hot and archived alike, in order; empty at the end.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ArchiveUnavailable`], [`Error::ShardUnavailable`].
    pub async fn export(
        &self,
        id: ConversationId,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<(Seq, HistoryRecord)>> {
        let mut after = after;
        loop {
            let found = self.both_tiers::<Shown>(id, after, limit).await?;
            let Some((head, messages, last)) = found else {
                return Ok(Vec::new());
            };
            if !messages.is_empty() {
                let channel = head.title.unwrap_or_else(|| id.to_string());
                let records = messages.into_iter();
                let records = records.map(|message| import::to_record(message, &channel));
                return Ok(records.collect());
            }
            after = last; // all of these were dropped when their retention ended
        }
    }

    /// The head, up to `limit` messages after `after` out of both tiers, as many as an answer has room for, and the last one that
    /// was looked for; `None` when there is none after `after`. Messages that were dropped are not among them.
    pub(super) async fn both_tiers<M: MessageRow>(
        &self,
        id: ConversationId,
        after: Seq,
        limit: u32,
    ) -> Result<Option<(Head, Vec<M>, Seq)>> {
        let deadline = Instant::now() + STEP;
        self.router
            .call(id.owner_key(), deadline, |shard, assignment| async move {
                let mut rows = shard.read(&assignment, deadline).await?;
                let head = head::read(&mut rows, &[id]).await?.pop();
                let head = head.ok_or(Error::NotFound("conversation"))?;
                if head.deleted_at.is_some() {
                    return Err(Error::NotFound("conversation: it was deleted"));
                }
                let last = Seq(after
                    .0
                    .saturating_add(u64::from(limit))
                    .min(head.head_seq.0));
                let range = (after.next(), last);
                if range.0 > range.1 {
                    return Ok(None);
                }
                let room = Room {
                    anchor: range.0,
                    bytes: self.answer_bytes(),
                };
                let hot = message::rows(&mut rows, id, range, room).await?;
                let stretch = Stretch {
                    shard: &shard,
                    assignment: &assignment,
                    cold: self.cold.as_ref(),
                    id,
                    range,
                    room,
                    deadline,
                };
                let merged: Merged<M> = stretch.read(rows, (head.rev, hot)).await?;
                match merged.unavailable {
                    Some(_) => Err(Error::ArchiveUnavailable),
                    None => Ok(Some((head, merged.messages, merged.range.1))),
                }
            })
            .await
    }
}
