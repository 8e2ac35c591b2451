//! What `export --all` reads and `import` of it writes ([`crate::dump`]). Each call is one step, which may be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::operator::STEP;
use crate::dump::{
    self, Begun, ConversationsCursor, DumpRow, ImportedChannel, Part, RowsCursor, Taken,
    UsersCursor,
};
use crate::error::{Error, Result};
use crate::head;
use crate::ids::{ConversationId, KeyFunction, Rev, Seq, UserId, UserKey};
use crate::imported_channels::{self, Name};
use crate::map::Assignment;
use crate::message::StoredMessage;
use crate::model::Timestamp;
use crate::node::Shard;
use crate::owned::{Entity, OwnedTransaction, WriteScope};

/// Most names of imported channels read at once.
const CHANNELS: i64 = 256;

impl Store {
    /// By which ids are places.
    #[must_use]
    pub fn key_function(&self) -> KeyFunction {
        self.settings().keyspace.function
    }

    /// The next rows of all users, table by table, each in the order of keys; none when all were read.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn dump_users(&self, cursor: &mut UsersCursor) -> Result<Vec<DumpRow>> {
        while !cursor.is_done() {
            let deadline = Instant::now() + STEP;
            let at = &*cursor;
            let read = |shard: Arc<Shard>, assignment: Assignment| async move {
                let mut rows = shard.read(&assignment, deadline).await?;
                at.read(&mut rows, assignment.range.end).await
            };
            let key = UserKey(cursor.start);
            let (rows, next) = self.router.call(key, deadline, read).await?;
            *cursor = next;
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }

    /// The next conversations in the order of their ids, each with when it was deleted; none when all were given.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn dump_conversations(
        &self,
        cursor: &mut ConversationsCursor,
    ) -> Result<Vec<(ConversationId, Option<Timestamp>)>> {
        while !cursor.is_done {
            let deadline = Instant::now() + STEP;
            let at = &*cursor;
            let read = |shard: Arc<Shard>, assignment: Assignment| async move {
                let mut rows = shard.read(&assignment, deadline).await?;
                at.read(&mut rows, assignment.range.end).await
            };
            let key = UserKey(cursor.start);
            let (ids, next) = self.router.call(key, deadline, read).await?;
            *cursor = next;
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
        Ok(Vec::new())
    }

    /// Begins a conversation: its head, and the rev after which its messages are to be written when only what was changed
    /// `since` is wanted, `None` for all. Nothing when it is deleted.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn dump_begin(
        &self,
        id: ConversationId,
        since: Option<Timestamp>,
    ) -> Result<Option<(Begun, Option<Rev>)>> {
        let deadline = Instant::now() + STEP;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            let Some(begun) = dump::begin(&mut rows, id).await? else {
                return Ok(None);
            };
            let rev = match since {
                None => None,
                Some(since) => dump::changed_since(&mut rows, id, &begun, since).await?,
            };
            Ok(Some((begun, rev)))
        };
        self.router.call(id.owner_key(), deadline, read).await
    }

    /// The next rows of a conversation's tables, and where they go on.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn dump_rows(
        &self,
        id: ConversationId,
        cursor: &RowsCursor,
    ) -> Result<(Vec<DumpRow>, Option<RowsCursor>)> {
        let deadline = Instant::now() + STEP;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            dump::rows_of_conversation(&mut rows, id, cursor.clone()).await
        };
        self.router.call(id.owner_key(), deadline, read).await
    }

    /// Messages after `after` out of both tiers, at most `limit`, and the last that was looked for; with `since` only those
    /// of a greater rev. `None` when there is none.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the conversation was deleted meanwhile, [`Error::ArchiveUnavailable`],
    /// [`Error::ShardUnavailable`].
    pub async fn dump_messages(
        &self,
        id: ConversationId,
        (after, limit): (Seq, u32),
        since: Option<Rev>,
    ) -> Result<Option<(Vec<StoredMessage>, Seq)>> {
        let deadline = Instant::now() + STEP;
        let mut after = after;
        if let Some(rev) = since {
            let read = |shard: Arc<Shard>, assignment: Assignment| async move {
                let mut rows = shard.read(&assignment, deadline).await?;
                dump::first_changed(&mut rows, id, (rev, after)).await
            };
            match self.router.call(id.owner_key(), deadline, read).await? {
                Some(first) => after = Seq(first.0.saturating_sub(1)),
                None => return Ok(None),
            }
        }
        let read = self.both_tiers::<StoredMessage>(id, after, limit).await?;
        Ok(read.map(|(_, mut messages, last)| {
            messages.retain(|message| since.is_none_or(|rev| message.rev > rev));
            let messages = messages.into_iter().map(StoredMessage::shown).collect();
            (messages, last)
        }))
    }

    /// Up to 256 names of imported channels after `after`, which moves on; none of conversations that are not there. `None`
    /// at the end.
    ///
    /// # Errors
    /// [`Error::DatabaseUnavailable`] of the directory, [`Error::ShardUnavailable`].
    pub async fn dump_channels(&self, after: &mut Vec<u8>) -> Result<Option<Vec<ImportedChannel>>> {
        let deadline = Instant::now() + STEP;
        let directory = self.router.directory().database();
        let names = imported_channels::after(directory, after, CHANNELS, deadline).await?;
        let Some((last, _)) = names.last() else {
            return Ok(None);
        };
        *after = last.bytes().to_vec();
        let mut channels = Vec::with_capacity(names.len());
        for (name, conversation) in names {
            if self.is_there(conversation).await? {
                let (channel, owner) = name.parts()?;
                channels.push(ImportedChannel {
                    channel,
                    owner,
                    conversation,
                });
            }
        }
        Ok(Some(channels))
    }

    async fn is_there(&self, id: ConversationId) -> Result<bool> {
        let deadline = Instant::now() + STEP;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            head::is_there(&mut rows, id).await
        };
        self.router.call(id.owner_key(), deadline, read).await
    }

    /// Takes a part of a conversation. The same again changes nothing.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is here as another one, or does not become whole; [`Error::ShardUnavailable`].
    pub async fn take_part(&self, part: &Part) -> Result<Taken> {
        let deadline = Instant::now() + STEP;
        let take = |shard: Arc<Shard>, assignment: Assignment| async move {
            let take = |mut rows: OwnedTransaction<'static>| async move {
                dump::take(&mut rows, part, self.settings()).await
            };
            let scope = WriteScope::conversation(&assignment, part.id);
            let taken = shard.write(&scope, deadline, take).await?;
            if part.head.is_some() {
                self.hint(&shard, part.id);
            }
            Ok(taken)
        };
        self.router.call(part.id.owner_key(), deadline, take).await
    }

    /// Takes rows of users; gives how many were stored or replaced. The same again changes nothing.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn take_users(&self, rows: &[DumpRow]) -> Result<u64> {
        let mut by_user: BTreeMap<(UserKey, UserId), Vec<&DumpRow>> = BTreeMap::new();
        for row in rows {
            if let Entity::User(key, user) = row.entity()? {
                by_user.entry((key, user)).or_default().push(row);
            }
        }
        let deadline = Instant::now() + STEP;
        let mut written = 0;
        let mut rest: Vec<_> = by_user.into_iter().collect();
        while let Some(key) = rest.first().map(|((key, _), _)| *key) {
            let take = |shard: Arc<Shard>, assignment: Assignment| {
                let ours = rest
                    .iter()
                    .take_while(|((key, _), _)| assignment.range.contains(*key));
                let ours: Vec<_> = ours.collect();
                async move {
                    let users: Vec<&UserId> = ours.iter().map(|((_, user), _)| user).collect();
                    let rows: Vec<&DumpRow> = ours
                        .iter()
                        .flat_map(|(_, rows)| rows.iter().copied())
                        .collect();
                    let (users, rows) = (&users, &rows);
                    let take = |mut transaction: OwnedTransaction<'static>| async move {
                        dump::take_users(&mut transaction, users, rows).await
                    };
                    let named = ours.iter().map(|((key, user), _)| (*key, user));
                    let scope = WriteScope::users(&assignment, named);
                    let written = shard.write(&scope, deadline, take).await?;
                    Ok((written, ours.len()))
                }
            };
            let (stored, users) = self.router.call(key, deadline, take).await?;
            written += stored;
            rest.drain(..users);
        }
        Ok(written)
    }

    /// A conversation was deleted where it came from: it is here, too, or what there is of it is removed.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn take_deletion(&self, id: ConversationId, at: Timestamp) -> Result<()> {
        loop {
            let deadline = Instant::now() + STEP;
            let delete = |shard: Arc<Shard>, assignment: Assignment| async move {
                let delete = |mut rows: OwnedTransaction<'static>| async move {
                    dump::delete_copy(&mut rows, id, at).await
                };
                let scope = WriteScope::conversation(&assignment, id);
                let is_done = shard.write(&scope, deadline, delete).await?;
                self.hint(&shard, id);
                Ok::<_, Error>(is_done)
            };
            if self.router.call(id.owner_key(), deadline, delete).await? {
                return Ok(());
            }
        }
    }

    /// Enters under which name a conversation was imported, so that a longer history is appended to it; not if it is not
    /// there, and not if another one is entered under that name.
    ///
    /// # Errors
    /// [`Error::DatabaseUnavailable`] of the directory, [`Error::ShardUnavailable`].
    pub async fn take_channel(&self, channel: &ImportedChannel) -> Result<()> {
        if !self.is_there(channel.conversation).await? {
            return Ok(());
        }
        let name = match &channel.owner {
            Some(owner) => Name::owned(&channel.channel, owner),
            None => Name::unowned(&channel.channel),
        };
        let directory = self.router.directory().database();
        let deadline = Instant::now() + STEP;
        imported_channels::enter(directory, &name, channel.conversation, deadline).await
    }
}
