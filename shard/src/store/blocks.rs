//! Blocking users, and asking who blocks whom.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::batches::Batch;
use super::creating::{self, MEMBERS_AT_ONCE, PROBES, Plan};
use crate::blocks::{self, BLOCKS_MAX, Blockers};
use crate::change::{Change, ListsToMark};
use crate::commit_event::{CommitEvent, Left};
use crate::contacts::{self, Direct};
use crate::error::{Error, Result};
use crate::head;
use crate::ids::{ConversationId, Rev, UserId, UserKey};
use crate::list;
use crate::list_marks;
use crate::map::Assignment;
use crate::model::{BlockList, Caller, ConversationKind, NewConversation};
use crate::node::Shard;
use crate::owned::OwnedTransaction;

/// Most users in a page.
const BLOCKS_PAGE_MAX: u32 = 100;

/// The direct conversations of a user with others.
#[derive(Debug, Default)]
pub(super) struct DirectConversations {
    /// Who blocks whom, for each of the others with whom there is one.
    pub(super) found: HashMap<UserId, Blockers>,
    /// The others whose shard does not answer.
    pub(super) unknown: HashSet<UserId>,
    /// The first reason why.
    pub(super) failure: Option<Error>,
}

/// What came of setting a block.
enum Outcome {
    /// The conversation's rev.
    Changed(Rev),
    Unchanged,
    /// Another conversation has the id.
    Taken,
}

impl Store {
    /// Makes the caller block `user`; what that means is in [`crate::blocks`]. The same again changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::LimitReached`] beyond [`BLOCKS_MAX`], [`Error::ShardUnavailable`],
    /// [`Error::DeadlineExceeded`].
    pub async fn block(&self, caller: &Caller, user: &UserId) -> Result<()> {
        let key = self.key(&caller.user)?;
        let count = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut mine = shard.read(&assignment, caller.deadline).await?;
            blocks::count(&mut mine, (key, &caller.user)).await
        };
        let count = self.router.call(key, caller.deadline, count).await?;
        let refusal = (count >= BLOCKS_MAX).then_some(Error::LimitReached {
            what: "blocked users",
            max: BLOCKS_MAX,
        });
        self.set_block(caller, user, true, refusal.as_ref()).await
    }

    /// Ends the block of `user` by the caller, if there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn unblock(&self, caller: &Caller, user: &UserId) -> Result<()> {
        self.set_block(caller, user, false, None).await
    }

    /// A page of the users whom the caller blocks, by id.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign cursor, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn blocked_users(
        &self,
        caller: &Caller,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<BlockList> {
        let after = cursor.map(|cursor| {
            UserId::new(cursor)
                .map_err(|_| Error::invalid("cursor", "pass the `nextCursor` of the page before"))
        });
        let after = after.transpose()?;
        let after: &[u8] = after.as_ref().map_or(&[], |user| user.as_ref());
        let limit = limit.clamp(1, BLOCKS_PAGE_MAX) as usize;
        let key = self.key(&caller.user)?;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut mine = shard.read(&assignment, caller.deadline).await?;
            blocks::page(&mut mine, (key, &caller.user), after, limit + 1).await
        };
        let mut users = self.router.call(key, caller.deadline, read).await?;
        let more = users.len() > limit;
        users.truncate(limit);
        let next_cursor = users
            .last()
            .filter(|_| more)
            .map(|last| last.as_str().to_owned());
        Ok(BlockList { users, next_cursor })
    }

    async fn set_block(
        &self,
        caller: &Caller,
        user: &UserId,
        blocks: bool,
        refusal: Option<&Error>,
    ) -> Result<()> {
        if *user == caller.user {
            return Err(Error::invalid("userId", "name somebody else"));
        }
        let direct = NewConversation {
            kind: ConversationKind::Direct,
            members: vec![user.clone()],
            title: None,
            metadata: None,
        };
        for probe in 0..PROBES {
            let plan = &self.plan(caller, &direct, None, probe)?;
            let id = plan.head.id;
            let set = |mut transaction: OwnedTransaction<'static>| async move {
                let me = &caller.user;
                set_block(&mut transaction, plan, (me, blocks), refusal).await
            };
            match self.write_planned(caller, id, set).await? {
                Outcome::Changed(rev) => {
                    self.listener
                        .committed(vec![CommitEvent::ConversationChanged {
                            conversation: id,
                            rev,
                            left: Left::Nobody,
                        }]);
                    self.relay_now(caller, id).await;
                    return Ok(());
                }
                Outcome::Unchanged => return Ok(()),
                Outcome::Taken => {}
            }
        }
        Err(Error::Conflict("no free id was found for this block"))
    }

    /// A refusal, if one of the members of a conversation that is about to be made blocks the caller. That of a direct one is
    /// asked when it is created.
    pub(super) async fn refusal_by_members(
        &self,
        caller: &Caller,
        new: &NewConversation,
    ) -> Result<Option<Error>> {
        if new.kind == ConversationKind::Direct || new.members.len() > MEMBERS_AT_ONCE + 1 {
            return Ok(None); // or it is refused for its size
        }
        let others: BTreeSet<UserId> = new.members.iter().cloned().collect();
        let blockers = self.blockers_among(caller, &others).await?;
        Ok((!blockers.is_empty()).then_some(Error::NotAccepted))
    }

    /// Those of `others` who block the caller.
    ///
    /// # Errors
    /// When that cannot be asked of all of them.
    pub(super) async fn blockers_among(
        &self,
        caller: &Caller,
        others: &BTreeSet<UserId>,
    ) -> Result<BTreeSet<UserId>> {
        let me = (self.key(&caller.user)?, &caller.user);
        let others: Vec<UserId> = others.iter().cloned().collect();
        let direct = self
            .direct_conversations(me, &others, caller.deadline)
            .await;
        if let Some(failure) = direct.failure {
            return Err(failure);
        }
        let found = direct.found.into_iter();
        let blockers = found.filter(|(other, blockers)| blockers.include(other));
        Ok(blockers.map(|(other, _)| other).collect())
    }

    /// The direct conversations of a user with `others`, by their ids: one statement a range of keys, unless ids are taken by
    /// conversations of others.
    pub(super) async fn direct_conversations(
        &self,
        (key, user): (UserKey, &UserId),
        others: &[UserId],
        deadline: Instant,
    ) -> DirectConversations {
        let ask = |shard: Arc<Shard>,
                   assignment: Assignment,
                   batch: Batch<(ConversationId, UserId)>| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            let asked = batch.iter().map(|(_, (id, other))| (*id, other)).collect();
            contacts::direct(&mut rows, user, &asked).await
        };
        let owner = |(id, _): &(ConversationId, UserId)| Some(id.owner_key());
        let mut direct = DirectConversations::default();
        let mut left: Vec<UserId> = others.to_vec();
        left.retain(|other| other != user);
        for probe in 0..PROBES {
            let place = |other: &UserId| {
                let id = ConversationId::direct((user, key), (other, self.key(other).ok()?), probe);
                Some((id, other.clone()))
            };
            let asked: Vec<(ConversationId, UserId)> = left.iter().filter_map(place).collect();
            left.clear();
            for (batch, answer) in self.in_batches(&asked, owner, deadline, &ask).await {
                match answer {
                    Ok(found) => found.into_iter().for_each(|found| match found {
                        Direct::Of(other, blockers) => drop(direct.found.insert(other, blockers)),
                        Direct::Taken(other) => left.push(other),
                    }),
                    Err(error) => {
                        let users = batch.iter().map(|(_, (_, other))| other.clone());
                        direct.unknown.extend(users);
                        direct.failure.get_or_insert(error);
                    }
                }
            }
            if left.is_empty() {
                break;
            }
        }
        direct
    }

    /// Lists a direct conversation for the caller, in whose list it is not: it was made for a block, or was put away.
    pub(super) async fn list_again(&self, caller: &Caller, id: ConversationId) -> Result<()> {
        let key = self.key(&caller.user)?;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut mine = shard.read(&assignment, caller.deadline).await?;
            list::one(&mut mine, (key, &caller.user), id).await
        };
        let entry = self.router.call(key, caller.deadline, read).await?;
        if entry.is_some_and(|entry| !entry.is_removed()) {
            return Ok(());
        }
        let list = |mut change: Change| async move {
            let rev = change.head.next_rev();
            change.lists = ListsToMark::Users(vec![caller.user.clone()]);
            change.events.push(CommitEvent::ConversationChanged {
                conversation: id,
                rev,
                left: Left::Nobody,
            });
            change.save(()).await
        };
        self.change(caller, id, list).await?;
        self.relay_now(caller, id).await;
        Ok(())
    }
}

/// Records in the planned direct conversation whether one of its members blocks the other; a block makes it, if it is not
/// there. With a `refusal`, nothing new is blocked.
async fn set_block(
    transaction: &mut OwnedTransaction<'_>,
    plan: &Plan,
    (me, blocks): (&UserId, bool),
    refusal: Option<&Error>,
) -> Result<Outcome> {
    let id = plan.head.id;
    let stored = head::lock(transaction, &[id]).await?.pop();
    let is_new = stored.is_none();
    let mut head = stored.unwrap_or_else(|| plan.head.clone());
    if !is_new && !creating::is_same_pair(transaction, &head, plan).await? {
        return Ok(Outcome::Taken);
    }
    if !head.blockers.set(me, blocks) {
        return Ok(Outcome::Unchanged);
    }
    if let Some(refusal) = refusal {
        return Err(refusal.clone());
    }
    if is_new {
        head.marked = false; // no list shows it
        creating::insert(transaction, plan, &head).await?;
    } else {
        head.next_rev();
        head::save(transaction, &[&head]).await?;
    }
    list_marks::mark(transaction, &[(id, me)]).await?;
    Ok(Outcome::Changed(head.rev))
}
