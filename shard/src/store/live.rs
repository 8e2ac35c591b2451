//! What a node that serves connections asks the log, for all of them together.
//!
//! A node listens on behalf of its sessions: it needs to know where logs stand, what a lost push said, and whether those
//! it serves are still members (INV-MEMBER). It asks in batches, so that the number of queries does not grow with the number
//! of connections: a storm of reconnects is a few statements. Answers of one batch may fail alone; the others are given.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::batches::Batch;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::head::{self, Head};
use crate::history;
use crate::ids::{ConversationId, Rev, Seq, UserId, UserKey};
use crate::list;
use crate::map::Assignment;
use crate::model::{ConversationHead, ListEntry, Timestamp};
use crate::node::Shard;
use crate::owned::{OwnedTransaction, WriteScope};
use crate::seen;
use crate::standing;
use crate::sync::{self, Delta, SyncRoom};
use crate::user_revs;

/// Where a conversation stands, for one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its head.
    pub head: ConversationHead,
    /// How many members it has.
    pub member_count: u64,
    /// One of the two members of a direct conversation blocks the other.
    pub is_closed: bool,
    /// Up to where the member's devices have received.
    pub delivered_seq: Seq,
}

impl Store {
    /// Where each conversation stands for each user: none where they are not a member. What could not be asked is absent.
    pub async fn standings(
        &self,
        pairs: &[(ConversationId, UserId)],
        deadline: Instant,
    ) -> HashMap<(ConversationId, UserId), Option<Standing>> {
        let key = |(id, _): &(ConversationId, UserId)| Some(id.owner_key());
        let ask = |shard: Arc<Shard>,
                   assignment: Assignment,
                   batch: Batch<(ConversationId, UserId)>| async move {
            let pairs: Vec<(ConversationId, &UserId)> =
                batch.iter().map(|(_, (id, user))| (*id, user)).collect();
            let (_, standings) = standing::of_pairs(&shard, &assignment, &pairs, deadline).await?;
            Ok(standings)
        };
        let mut standings = HashMap::with_capacity(pairs.len());
        for (batch, answer) in self.in_batches(pairs, key, deadline, ask).await {
            match answer {
                Ok(found) => {
                    standings.extend(batch.iter().map(|(_, pair)| (pair.clone(), None)));
                    standings.extend(found.into_iter().map(|found| {
                        let standing = Standing {
                            head: found.access.head(found.id),
                            member_count: found.member_count,
                            is_closed: found.is_closed,
                            delivered_seq: found.delivered_seq,
                        };
                        ((found.id, found.user), Some(standing))
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, conversations = batch.len(), "cannot tell where conversations stand");
                }
            }
        }
        standings
    }

    /// Where each conversation stands: none where it is gone. What could not be asked is absent.
    pub async fn heads(
        &self,
        ids: &[ConversationId],
        deadline: Instant,
    ) -> HashMap<ConversationId, Option<ConversationHead>> {
        let key = |id: &ConversationId| Some(id.owner_key());
        let ask = |shard: Arc<Shard>, assignment: Assignment, batch: Batch<ConversationId>| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            let ids: Vec<ConversationId> = batch.iter().map(|(_, id)| *id).collect();
            head::read(&mut rows, &ids).await
        };
        let mut positions = HashMap::with_capacity(ids.len());
        for (batch, answer) in self.in_batches(ids, key, deadline, ask).await {
            match answer {
                Ok(heads) => {
                    positions.extend(batch.iter().map(|(_, id)| (*id, None)));
                    let live = heads.iter().filter(|head| head.deleted_at.is_none());
                    positions.extend(live.map(|head| (head.id, Some(position(head)))));
                }
                Err(error) => {
                    tracing::warn!(%error, conversations = batch.len(), "cannot tell where conversations stand");
                }
            }
        }
        positions
    }

    /// When users were connected last. Users that never were, or whose shard did not answer, are absent.
    pub async fn last_seen(
        &self,
        users: &[UserId],
        deadline: Instant,
    ) -> HashMap<UserId, Timestamp> {
        let key = |user: &UserId| self.key(user).ok();
        let ask = |shard: Arc<Shard>, assignment: Assignment, batch: Batch<UserId>| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            seen::of(&mut rows, &keyed(&batch)).await
        };
        let asked = self.in_batches(users, key, deadline, ask).await;
        answered(asked).flat_map(|(_, seen)| seen).collect()
    }

    /// Users (no two alike) were connected until then.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`]; some may be stored.
    pub async fn save_last_seen(
        &self,
        users: &[(UserId, Timestamp)],
        deadline: Instant,
    ) -> Result<()> {
        let key = |(user, _): &(UserId, Timestamp)| self.key(user).ok();
        let store = |shard: Arc<Shard>,
                     assignment: Assignment,
                     batch: Batch<(UserId, Timestamp)>| async move {
            let batch = &batch;
            let save = |mut rows: OwnedTransaction<'static>| async move {
                let keyed = batch.iter().map(|(key, (user, at))| (*key, user, *at));
                seen::save(&mut rows, &keyed.collect::<Vec<_>>()).await
            };
            let users = batch.iter().map(|(key, (user, _))| (*key, user));
            let scope = WriteScope::users(&assignment, users);
            shard.write(&scope, deadline, save).await
        };
        let stored = self.in_batches(users, key, deadline, store).await;
        stored.into_iter().try_for_each(|(_, stored)| stored)
    }

    /// Each user's rev over their list entries; 0 without entries. Users whose shard did not answer are absent.
    pub async fn list_revs(&self, users: &[UserId], deadline: Instant) -> HashMap<UserId, Rev> {
        let key = |user: &UserId| self.key(user).ok();
        let ask = |shard: Arc<Shard>, assignment: Assignment, batch: Batch<UserId>| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            user_revs::of(&mut rows, &keyed(&batch)).await
        };
        let asked = self.in_batches(users, key, deadline, ask).await;
        let mut revs = HashMap::with_capacity(users.len());
        for (batch, known) in answered(asked) {
            revs.extend(batch.iter().map(|(_, user)| (user.clone(), Rev(0))));
            revs.extend(known);
        }
        revs
    }

    /// What changed in a conversation since `rev`, for those of its members whom this node serves.
    ///
    /// # Errors
    /// [`Error::NotMember`] when it is gone, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn changes(&self, id: ConversationId, rev: Rev, deadline: Instant) -> Result<Delta> {
        let most = self.settings().limits.sync_changes;
        self.router
            .call(id.owner_key(), deadline, |shard, assignment| async move {
                let access = history::access_without_membership_check;
                let (rows, access) = access(&shard, &assignment, id, deadline).await?;
                let room = SyncRoom {
                    messages: sync::MESSAGES_MAX,
                    bytes: self.answer_bytes(),
                    begun: false,
                };
                sync::delta(
                    rows,
                    (&shard, &assignment, self.cold.as_ref()),
                    id,
                    access,
                    rev,
                    (room, most),
                    deadline,
                )
                .await
            })
            .await
    }

    /// The entries of a user's list that changed after `rev`, each with the user's rev of its change, in their order; at most
    /// `limit`.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn list_changes(
        &self,
        user: &UserId,
        rev: Rev,
        limit: u32,
        deadline: Instant,
    ) -> Result<Vec<(Rev, ListEntry)>> {
        let key = self.key(user)?;
        let entries = self
            .router
            .call(key, deadline, |shard, assignment| async move {
                let mut rows = shard.read(&assignment, deadline).await?;
                list::changed(&mut rows, (key, user), rev, limit).await
            })
            .await?;
        let entries = entries.into_iter();
        let entries = entries.map(|entry| (entry.rev, entry.into_list_entry()));
        Ok(entries.collect())
    }
}

fn keyed(batch: &Batch<UserId>) -> Vec<(UserKey, &UserId)> {
    batch.iter().map(|(key, user)| (*key, user)).collect()
}

/// The batches of users whose shard has answered.
fn answered<T>(asked: Vec<(Batch<UserId>, Result<T>)>) -> impl Iterator<Item = (Batch<UserId>, T)> {
    asked.into_iter().filter_map(|(batch, answer)| {
        let answer = answer.inspect_err(|error| {
            tracing::warn!(%error, users = batch.len(), "cannot tell what users' shards hold");
        });
        Some((batch, answer.ok()?))
    })
}

fn position(head: &Head) -> ConversationHead {
    ConversationHead {
        conversation_id: head.id,
        head_seq: head.head_seq,
        rev: head.rev,
    }
}
