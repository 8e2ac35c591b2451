//! The caller's conversation list, unread counts, and sync.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Store;
use super::batches::Batch;
use crate::error::{Error, Result};
use crate::history;
use crate::ids::{ConversationId, Rev, UserId, UserKey};
use crate::list::{self, Entry, ListOrder, PageEntries};
use crate::map::Assignment;
use crate::model::{
    Caller, ConversationChanges, ConversationHead, ConversationList, SyncPage, SyncRequest,
    UnreadCount,
};
use crate::node::Shard;
use crate::owned::{OwnedReader, OwnedTransaction, WriteScope};
use crate::relay;
use crate::standing::{self, Standing};
use crate::sync::{self, Delta, SyncRoom};
use crate::user_revs;

/// How long a list waits for the heads of large conversations.
const FOLLOW: Duration = Duration::from_secs(1);
/// Most conversations in a page of the list.
const LIST_PAGE_MAX: u32 = 100;

impl Store {
    /// A page of the caller's conversations: pinned first, then the latest activity first. Large conversations beyond
    /// [`FOLLOWED_MAX`](list::FOLLOWED_MAX) stand where the latest activity was when their entries changed last.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign cursor, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn list_conversations(
        &self,
        caller: &Caller,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<ConversationList> {
        let after = cursor.map(ListOrder::parse).transpose()?;
        let limit = limit.clamp(1, LIST_PAGE_MAX) as usize;
        let key = self.key(&caller.user)?;
        let PageEntries {
            relayed,
            followed: mut large,
            others,
        } = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let mut mine = shard.read(&assignment, caller.deadline).await?;
                list::page(&mut mine, (key, &caller.user), after, limit + 1).await
            })
            .await?;
        let followed = large.len();
        let stored: Vec<ListOrder> = others.iter().map(Entry::order).collect();
        large.extend(others);
        let mut large = self.follow(caller, large).await;
        let others = large.split_off(followed);
        let by_activity = large.into_iter().chain(relayed);
        let by_activity = by_activity.map(|entry| (entry.order(), entry));
        let mut entries: Vec<(ListOrder, Entry)> = by_activity
            .filter(|(place, _)| after.is_none_or(|after| *place < after))
            .chain(stored.into_iter().zip(others))
            .collect();
        entries.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        let next_cursor = (entries.len() > limit).then(|| entries[limit - 1].0.to_cursor());
        let conversations = entries
            .into_iter()
            .take(limit)
            .map(|(_, entry)| entry.into_list_entry())
            .collect();
        Ok(ConversationList {
            conversations,
            next_cursor,
        })
    }

    /// How many messages, in how many conversations, the caller has not read. Large conversations beyond
    /// [`FOLLOWED_MAX`](list::FOLLOWED_MAX) are not counted, and the answer says so.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn unread_count(&self, caller: &Caller) -> Result<UnreadCount> {
        let key = self.key(&caller.user)?;
        let relayed = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let mut mine = shard.read(&assignment, caller.deadline).await?;
                list::unread(&mut mine, (key, &caller.user)).await
            })
            .await?;
        let (mut total, mut conversations) = (relayed.messages, relayed.conversations);
        let mut mentions = relayed.mentions;
        for entry in self.follow(caller, relayed.large).await {
            let unread = entry.head_seq.0.saturating_sub(entry.read_seq.0);
            total += unread;
            conversations += u64::from(unread > 0);
            mentions += entry.mentions.count();
        }
        Ok(UnreadCount {
            total,
            conversations,
            mentions,
            partial: relayed.partial,
        })
    }

    /// What changed since the client's cursor and revs, in pages. A cursor or a rev that was not given out, because the
    /// database was restored to an earlier state, is as good as none: the list is told whole, the conversation by `resync`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign cursor or too many conversations.
    pub async fn sync(&self, caller: &Caller, request: SyncRequest) -> Result<SyncPage> {
        self.sync_within(caller, request, self.answer_bytes()).await
    }

    /// The same in pages with about `most_bytes` of messages.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub async fn sync_within(
        &self,
        caller: &Caller,
        request: SyncRequest,
        most_bytes: usize,
    ) -> Result<SyncPage> {
        if request.conversations.len() > sync::CONVERSATIONS_MAX {
            return Err(Error::invalid(
                "conversations",
                format!("at most {} at once", sync::CONVERSATIONS_MAX),
            ));
        }
        let since = request
            .cursor
            .as_deref()
            .map(sync::parse_cursor)
            .transpose()?;
        let key = self.key(&caller.user)?;
        let (since, mut entries) = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let mut mine = shard.read(&assignment, caller.deadline).await?;
                let me = (key, &caller.user);
                changed_since(&mut mine, me, since, sync::ENTRIES_MAX + 1).await
            })
            .await?;
        let from = since.unwrap_or_default();
        let mut has_more = entries.len() > sync::ENTRIES_MAX as usize;
        entries.truncate(sync::ENTRIES_MAX as usize);
        let cursor = entries.last().map_or(from, |entry| entry.rev);
        if since.is_none() {
            entries.retain(|entry| !entry.removed);
        }
        let mut page = SyncPage {
            changes: Vec::new(),
            cursor: sync::to_cursor(cursor),
            has_more: false,
            resync: Vec::new(),
        };
        let mut place: HashMap<ConversationId, usize> = HashMap::new();
        let (large, relayed): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|entry| !entry.relayed && !entry.removed);
        let mut entries = self.follow(caller, large).await;
        entries.extend(relayed);
        entries.sort_by_key(|entry| entry.rev);
        for entry in entries {
            let conversation_id = entry.conversation;
            let rev = request
                .conversations
                .get(&conversation_id)
                .copied()
                .unwrap_or(entry.conversation_rev);
            place.insert(conversation_id, page.changes.len());
            let conversation = Some(entry.into_list_entry());
            page.changes.push(ConversationChanges {
                conversation_id,
                conversation,
                messages: Vec::new(),
                members: Vec::new(),
                rev,
            });
        }
        let behind = self.behind(caller, &request.conversations).await?;
        page.resync = behind.too_far;
        let mut told = 0;
        let mut room = SyncRoom {
            messages: sync::MESSAGES_MAX,
            bytes: most_bytes,
            begun: false,
        };
        for (id, rev) in behind.changed {
            if room.messages == 0 || room.bytes == 0 || told == sync::CHANGED_MAX {
                has_more = true; // those not looked at keep the rev the client has
                break;
            }
            match self.delta(caller, id, rev, room).await {
                Ok(Delta::None) | Err(Error::NotMember) => {}
                Ok(Delta::Resync(head)) => page.resync.push(head),
                Ok(Delta::Changes { changes, .. }) if changes.rev == rev => {
                    has_more = true; // there is no room for the next one
                    break;
                }
                Ok(Delta::Changes {
                    changes,
                    complete,
                    bytes,
                }) => {
                    room.begun |= !changes.messages.is_empty();
                    room.messages = room.messages.saturating_sub(changes.messages.len());
                    room.bytes = room.bytes.saturating_sub(bytes);
                    has_more |= !complete;
                    told += 1;
                    match place.get(&id) {
                        Some(at) => {
                            let conversation = page.changes[*at].conversation.take();
                            page.changes[*at] = ConversationChanges {
                                conversation,
                                ..changes
                            };
                        }
                        None => page.changes.push(changes),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        page.has_more = has_more;
        Ok(page)
    }

    /// Those of the conversations that the caller is a member of and does not have up to their latest change, with one statement
    /// a range.
    async fn behind(
        &self,
        caller: &Caller,
        known: &BTreeMap<ConversationId, Rev>,
    ) -> Result<Behind> {
        let most = self.settings().limits.sync_changes;
        let mut behind = Behind::default();
        if let Some((id, rev)) = known.first_key_value()
            && known.len() == 1
        {
            behind.changed.push((*id, *rev));
            return Ok(behind); // reading its changes says so with the same statement
        }
        let ids: Vec<ConversationId> = known.keys().copied().collect();
        let key = |id: &ConversationId| Some(id.owner_key());
        let deadline = caller.deadline;
        let ask = |shard: Arc<Shard>, assignment: Assignment, batch: Batch<ConversationId>| async move {
            let mine: Vec<_> = batch.iter().map(|(_, id)| (*id, &caller.user)).collect();
            let (_, standings) = standing::of_pairs(&shard, &assignment, &mine, deadline).await?;
            Ok(standings)
        };
        for (_, standings) in self.in_batches(&ids, key, deadline, ask).await {
            for standing in standings? {
                let rev = known.get(&standing.id).copied().unwrap_or_default();
                if sync::is_too_far(rev, standing.access.rev, most) {
                    behind.too_far.push(standing.access.head(standing.id));
                } else if rev != standing.access.rev {
                    behind.changed.push((standing.id, rev));
                }
            }
        }
        behind.changed.sort_unstable();
        Ok(behind)
    }

    async fn delta(
        &self,
        caller: &Caller,
        id: ConversationId,
        rev: Rev,
        room: SyncRoom,
    ) -> Result<Delta> {
        let most = self.settings().limits.sync_changes;
        self.router
            .call(
                id.owner_key(),
                caller.deadline,
                |shard, assignment| async move {
                    let (me, deadline) = ((id, &caller.user), caller.deadline);
                    let (rows, access) = history::access(&shard, &assignment, me, deadline).await?;
                    sync::delta(
                        rows,
                        (&shard, &assignment, self.cold.as_ref()),
                        id,
                        access,
                        rev,
                        (room, most),
                        caller.deadline,
                    )
                    .await
                },
            )
            .await
    }

    /// Brings entries of conversations that are not relayed up to date, with one query a range. A conversation whose shard
    /// does not answer soon is shown as it was last read, and marked stale.
    async fn follow(&self, caller: &Caller, mut entries: Vec<Entry>) -> Vec<Entry> {
        let ids: Vec<ConversationId> = entries.iter().map(|entry| entry.conversation).collect();
        let key = |id: &ConversationId| Some(id.owner_key());
        let deadline = caller.deadline.min(Instant::now() + FOLLOW);
        let ask = |shard: Arc<Shard>, assignment: Assignment, batch: Batch<ConversationId>| async move {
            let mine: Vec<_> = batch.iter().map(|(_, id)| (*id, &caller.user)).collect();
            let (mut rows, mut standings) =
                standing::of_pairs(&shard, &assignment, &mine, deadline).await?;
            standing::add_mentions(&mut rows, &mut standings).await?;
            Ok(standings)
        };
        let mut current: HashMap<ConversationId, Standing> = HashMap::new();
        let mut away: HashSet<ConversationId> = HashSet::new();
        for (batch, standings) in self.in_batches(&ids, key, deadline, ask).await {
            match standings {
                Ok(found) => {
                    current.extend(found.into_iter().map(|standing| (standing.id, standing)));
                }
                Err(error) => {
                    tracing::warn!(%error, conversations = batch.len(), "large conversations are listed as they were");
                    away.extend(batch.iter().map(|(_, id)| *id));
                }
            }
        }
        for entry in &mut entries {
            if let Some(standing) = current.remove(&entry.conversation) {
                self.followed.read(entry, standing);
            } else if away.contains(&entry.conversation) {
                self.followed.recall(&caller.user, entry);
            }
        }
        entries
    }

    /// Takes a direct conversation out of the caller's list, until something is said in it.
    pub(super) async fn put_away(&self, caller: &Caller, id: ConversationId) -> Result<()> {
        let key = self.key(&caller.user)?;
        self.relay_now(caller, id).await; // what was said before does not bring it back
        let put_away = |shard: Arc<Shard>, assignment: Assignment| async move {
            let me = (key, &caller.user);
            let put = |mut rows: OwnedTransaction<'static>| async move {
                list::put_away(&mut rows, me, id).await
            };
            let scope = WriteScope::users(&assignment, [me]);
            shard.write(&scope, caller.deadline, put).await
        };
        let entry = self.router.call(key, caller.deadline, put_away).await?;
        let changed = entry.map(|entry| (caller.user.clone(), entry));
        self.listener
            .committed(relay::list_events(changed.into_iter().collect()));
        Ok(())
    }

    /// Pins or mutes one of the caller's conversations in their own list.
    pub(super) async fn set_list_flags(
        &self,
        caller: &Caller,
        id: ConversationId,
        flags: (Option<bool>, Option<bool>),
    ) -> Result<()> {
        let key = self.key(&caller.user)?;
        self.relay_now(caller, id).await; // the entry of somebody who joined a moment ago
        let entry = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let me = (key, &caller.user);
                let set = |mut rows: OwnedTransaction<'static>| async move {
                    list::set_flags(&mut rows, me, id, flags).await
                };
                let scope = WriteScope::users(&assignment, [me]);
                shard.write(&scope, caller.deadline, set).await
            })
            .await?;
        let changed = vec![(caller.user.clone(), entry)];
        self.listener.committed(relay::list_events(changed));
        Ok(())
    }
}

/// Conversations of which a client does not have the latest change.
#[derive(Debug, Default)]
struct Behind {
    /// Their changes are to be read, after the rev that the client has.
    changed: Vec<(ConversationId, Rev)>,
    /// The client has to fetch these from their heads.
    too_far: Vec<ConversationHead>,
}

/// The entries of a user's list that changed after a rev, and that rev; all of them, and none, when it was never given out.
async fn changed_since(
    rows: &mut OwnedReader<'_>,
    me: (UserKey, &UserId),
    since: Option<Rev>,
    limit: u32,
) -> Result<(Option<Rev>, Vec<Entry>)> {
    let entries = list::changed(rows, me, since.unwrap_or_default(), limit).await?;
    if let Some(rev) = since.filter(|rev| *rev > Rev(0) && entries.is_empty()) {
        let revs = user_revs::of(rows, &[me]).await?;
        if revs.first().is_none_or(|(_, current)| rev > *current) {
            return Ok((None, list::changed(rows, me, Rev(0), limit).await?));
        }
    }
    Ok((since, entries))
}
