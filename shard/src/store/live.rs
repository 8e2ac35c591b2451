//! What a node that serves connections asks the log, for all of them together.
//!
//! A node listens on behalf of its sessions: it needs to know where logs stand, what a lost push said, and whether those
//! it serves are still members (INV-MEMBER). It asks in batches of [`BATCH`], so that the number of queries does not grow with
//! the number of connections: a storm of reconnects is a few statements. Answers of one batch may fail alone; the others
//! are given.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use futures_util::future::join_all;

use super::Store;
use crate::conversation::{self, Head};
use crate::db::Connection;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::fence;
use crate::history;
use crate::ids::{ConversationId, Rev, UserId, UserKey};
use crate::list;
use crate::map::Assignment;
use crate::member;
use crate::model::{ConversationHead, ListEntry, Timestamp};
use crate::seen;
use crate::sync::{self, Delta};

/// Most keys in one statement.
const BATCH: usize = 256;

/// Where a conversation stands, for one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its head.
    pub head: ConversationHead,
    /// How many members it has.
    pub member_count: u64,
}

impl Store {
    /// Where each conversation stands for each user: none where they are not a member. What could not be asked is absent.
    pub async fn standings(
        &self,
        pairs: &[(ConversationId, UserId)],
        deadline: Instant,
    ) -> HashMap<(ConversationId, UserId), Option<Standing>> {
        let batches = self.batches(pairs, |(id, _)| Some(id.owner_key()));
        let asked = batches.into_iter().map(async |(key, batch)| {
            let batch = &batch;
            let answer = self
                .router
                .call(key, deadline, |shard, assignment| async move {
                    let mut connection = shard.reader(deadline).await?;
                    fence::require_read(&mut connection, shard.name(), &assignment).await?;
                    let wanted: Vec<(ConversationId, &UserId)> =
                        batch.iter().map(|(id, user)| (*id, user)).collect();
                    let mut ids: Vec<ConversationId> = wanted.iter().map(|(id, _)| *id).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    // Heads first: whoever is removed after that hears of it, as a change after the head.
                    let heads = conversation::heads(&mut connection, &ids, false).await?;
                    Ok((member::pairs(&mut connection, &wanted).await?, heads))
                })
                .await;
            (batch.clone(), answer)
        });
        let mut standings = HashMap::with_capacity(pairs.len());
        for (batch, answer) in join_all(asked).await {
            let (members, heads) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(%error, conversations = batch.len(), "cannot tell where conversations stand");
                    continue;
                }
            };
            let heads: HashMap<ConversationId, Standing> = heads
                .iter()
                .filter_map(|head| {
                    let (id, position) = position(head)?;
                    let standing = Standing {
                        head: position,
                        member_count: head.member_count,
                    };
                    Some((id, standing))
                })
                .collect();
            standings.extend(batch.into_iter().map(|pair| (pair, None)));
            for (id, membership) in members.into_iter().filter(|(_, member)| member.is_active()) {
                standings.insert((id, membership.user), heads.get(&id).copied());
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
        let batches = self.batches(ids, |id| Some(id.owner_key()));
        let asked = batches.into_iter().map(async |(key, batch)| {
            let ids = &batch;
            let answer = self
                .router
                .call(key, deadline, |shard, assignment| async move {
                    let mut connection = shard.reader(deadline).await?;
                    fence::require_read(&mut connection, shard.name(), &assignment).await?;
                    conversation::heads(&mut connection, ids, false).await
                })
                .await;
            (ids.clone(), answer)
        });
        let mut positions = HashMap::with_capacity(ids.len());
        for (batch, answer) in join_all(asked).await {
            match answer {
                Ok(heads) => {
                    positions.extend(batch.into_iter().map(|id| (id, None)));
                    let live = heads.iter().filter_map(position);
                    positions.extend(live.map(|(id, head)| (id, Some(head))));
                }
                Err(error) => {
                    tracing::warn!(%error, conversations = batch.len(), "cannot tell where conversations stand");
                }
            }
        }
        positions
    }

    /// When users were connected last; who never was, and what could not be asked, is absent.
    pub async fn last_seen(
        &self,
        users: &[UserId],
        deadline: Instant,
    ) -> HashMap<UserId, Timestamp> {
        let asked = self.of_users(users, deadline, async |connection, keyed| {
            seen::of(connection, keyed).await
        });
        asked.await.into_iter().flat_map(|(_, seen)| seen).collect()
    }

    /// Users (no two alike) were connected until then.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`]; some may be stored.
    pub async fn saw(&self, users: &[(UserId, Timestamp)], deadline: Instant) -> Result<()> {
        for (key, batch) in self.batches(users, |(user, _)| self.key(user).ok()) {
            let batch = &batch;
            self.router
                .call(key, deadline, |shard, assignment| async move {
                    let mut connection = shard.begin(deadline).await?;
                    fence::require_write(&mut connection, shard.name(), &assignment).await?;
                    let mut keyed = Vec::with_capacity(batch.len());
                    for (user, at) in batch {
                        keyed.push((self.key(user)?, user, *at));
                    }
                    seen::save(&mut connection, &keyed).await?;
                    connection.commit().await
                })
                .await?;
        }
        Ok(())
    }

    /// Each user's rev over their list entries; 0 for who has none. What could not be asked is absent.
    pub async fn list_revs(&self, users: &[UserId], deadline: Instant) -> HashMap<UserId, Rev> {
        let asked = self.of_users(users, deadline, async |connection, keyed| {
            list::revs(connection, keyed).await
        });
        let mut revs = HashMap::with_capacity(users.len());
        for (batch, known) in asked.await {
            revs.extend(batch.into_iter().map(|user| (user, Rev(0))));
            revs.extend(known);
        }
        revs
    }

    /// Asks the users' shards, all at once and in batches; gives each batch that was answered.
    async fn of_users<T>(
        &self,
        users: &[UserId],
        deadline: Instant,
        ask: impl AsyncFn(&mut Connection, &[(UserKey, &UserId)]) -> Result<Vec<(UserId, T)>>,
    ) -> Vec<(Vec<UserId>, Vec<(UserId, T)>)> {
        let batches = self.batches(users, |user| self.key(user).ok());
        let ask = &ask;
        let asked = batches.into_iter().map(async |(key, batch)| {
            let users = &batch;
            let answer = self
                .router
                .call(key, deadline, |shard, assignment| async move {
                    let mut connection = shard.reader(deadline).await?;
                    fence::require_read(&mut connection, shard.name(), &assignment).await?;
                    let mut keyed: Vec<(UserKey, &UserId)> = Vec::with_capacity(users.len());
                    for user in users {
                        keyed.push((self.key(user)?, user));
                    }
                    ask(&mut connection, &keyed).await
                })
                .await;
            (batch.clone(), answer)
        });
        let mut answered = Vec::new();
        for (batch, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => answered.push((batch, answer)),
                Err(error) => {
                    tracing::warn!(%error, users = batch.len(), "cannot tell what users' shards hold");
                }
            }
        }
        answered
    }

    /// What changed in a conversation since `rev`, for those of its members whom this node serves.
    ///
    /// # Errors
    /// [`Error::NotMember`] when it is gone, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn changes(&self, id: ConversationId, rev: Rev, deadline: Instant) -> Result<Delta> {
        let most = self.settings().limits.sync_changes;
        self.router
            .call(id.owner_key(), deadline, |shard, assignment| async move {
                let mut connection = shard.reader(deadline).await?;
                let access = history::anybodys(&mut connection, &shard, &assignment, id).await?;
                let room = (sync::MESSAGES_MAX, most);
                sync::delta(
                    connection,
                    (&shard, self.cold.as_ref()),
                    id,
                    access,
                    rev,
                    room,
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
                let mut connection = shard.reader(deadline).await?;
                fence::require_read(&mut connection, shard.name(), &assignment).await?;
                list::changed(&mut connection, (key, user), rev, limit).await
            })
            .await?;
        entries
            .into_iter()
            .map(|entry| Ok((entry.rev, entry.into_list_entry()?)))
            .collect()
    }

    /// Groups `items` by the range that holds their key, in batches; with each, a key of that range. Items without a key are
    /// left out.
    pub(super) fn batches<T: Clone>(
        &self,
        items: &[T],
        key: impl Fn(&T) -> Option<UserKey>,
    ) -> Vec<(UserKey, Vec<T>)> {
        let map = self.map();
        let mut by_range: BTreeMap<u64, (UserKey, Vec<T>)> = BTreeMap::new();
        for item in items {
            let Some(key) = key(item) else { continue };
            let assignment: &Assignment = map.locate(key);
            let group = by_range.entry(assignment.range.start);
            group
                .or_insert_with(|| (key, Vec::new()))
                .1
                .push(item.clone());
        }
        by_range
            .into_values()
            .flat_map(|(key, items)| {
                let chunks: Vec<Vec<T>> = items.chunks(BATCH).map(<[T]>::to_vec).collect();
                chunks.into_iter().map(move |chunk| (key, chunk))
            })
            .collect()
    }
}

fn position(head: &Head) -> Option<(ConversationId, ConversationHead)> {
    head.deleted_at.is_none().then_some((
        head.id,
        ConversationHead {
            conversation_id: head.id,
            head_seq: head.head_seq,
            rev: head.rev,
        },
    ))
}
