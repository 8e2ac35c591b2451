//! Reads the logs for a node's topics.
//!
//! Questions that many sessions ask at the same time, as in a wave of reconnects, are asked in batches. At most
//! [`READS_MAX`] reads of changes run at the same time, so that requests still find connections to the databases. Every read
//! has a deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId};
use backscroll_shard::model::{
    Caller, ConversationChanges, ConversationHead, ListEntry, Message, Position,
};
use backscroll_shard::store::{Standing, Store};
use backscroll_shard::sync::Delta;
use backscroll_shard::tasks::TaskGroup;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::batch::Batcher;
use crate::publisher::message_push;
use crate::push::{Push, PushKind};

/// How long one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer to a batched question may take, the batches before it included.
const BATCHED_TIMEOUT: Duration = Duration::from_secs(8);
/// Most reads of changes at the same time.
const READS_MAX: usize = 8;
/// Most changes that a session which resumes receives, in all its conversations together. Beyond, its client loads pages.
pub(crate) const REPLAY_MAX: usize = 300;

/// The changes of a conversation after a rev.
pub(super) enum Changes {
    /// There are none.
    None,
    /// Too many, or some that can no longer be read: sessions have to load the conversation, which stands at this head.
    TooMany(ConversationHead),
    /// Some, or all of them.
    Some {
        /// The changes in the order of their revs.
        changes: Vec<Push>,
        /// They are all of the changes up to this rev.
        through: Rev,
        /// The newest message among them.
        newest: Seq,
        /// Whether they are all there are.
        complete: bool,
        /// Whether members changed.
        members: bool,
    },
}

/// How many changes a session that resumes may still receive. Its conversations share one budget.
pub(crate) struct ReplayBudget(AtomicUsize);

impl ReplayBudget {
    /// The whole budget of a session.
    pub(crate) fn full() -> Self {
        Self(AtomicUsize::new(REPLAY_MAX))
    }

    /// No budget: the session receives no missed changes.
    pub(crate) fn none() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Takes `changes` from the budget, or what is left of it. Returns how many it took.
    pub(super) fn take_up_to(&self, changes: usize) -> usize {
        let take = |left: usize| Some(left - left.min(changes));
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.unwrap_or_default().min(changes)
    }

    /// Takes `changes` from the budget, or nothing when it has less.
    pub(super) fn take(&self, changes: usize) -> bool {
        let take = |left: usize| left.checked_sub(changes);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

/// Reads the logs.
pub(crate) struct LogReader {
    store: Arc<Store>,
    standings: Batcher<(ConversationId, UserId), Option<Standing>>,
    list_revs: Batcher<UserId, Rev>,
    reads: Semaphore,
}

impl LogReader {
    /// Reads from `store`; the batches run in `tasks` until `closing`.
    pub(crate) fn start(store: Arc<Store>, tasks: &TaskGroup, closing: &CancellationToken) -> Self {
        let asked = Arc::clone(&store);
        let standings = Batcher::start(
            "standings",
            (tasks, closing),
            move |pairs: Vec<(ConversationId, UserId)>| {
                let store = Arc::clone(&asked);
                async move { store.standings(&pairs, deadline()).await }
            },
        );
        let asked = Arc::clone(&store);
        let list_revs = Batcher::start("list-revs", (tasks, closing), move |users: Vec<UserId>| {
            let store = Arc::clone(&asked);
            async move { store.list_revs(&users, deadline()).await }
        });
        Self {
            store,
            standings,
            list_revs,
            reads: Semaphore::new(READS_MAX),
        }
    }

    /// Where a conversation stands, for a member (INV-MEMBER).
    ///
    /// # Errors
    /// [`Error::NotMember`]; [`Error::DeadlineExceeded`] when its shard does not answer.
    pub(crate) async fn standing(&self, id: ConversationId, user: &UserId) -> Result<Standing> {
        let asked = self.standings.ask((id, user.clone()));
        let answer = tokio::time::timeout(BATCHED_TIMEOUT, asked).await;
        let answer = answer.ok().flatten().ok_or(Error::DeadlineExceeded)?;
        answer.ok_or(Error::NotMember)
    }

    /// The rev of a user's list; none when its shard does not answer.
    pub(super) async fn list_rev(&self, user: &UserId) -> Option<Rev> {
        let asked = self.list_revs.ask(user.clone());
        let answer = tokio::time::timeout(BATCHED_TIMEOUT, asked).await;
        answer.ok().flatten()
    }

    /// Where conversations stand: none for one that does not exist. One whose shard does not answer is absent.
    pub(super) async fn heads(
        &self,
        ids: &[ConversationId],
    ) -> HashMap<ConversationId, Option<ConversationHead>> {
        self.store.heads(ids, deadline()).await
    }

    /// The revs of users' lists. One whose shard does not answer is absent.
    pub(super) async fn list_revs(&self, users: &[UserId]) -> HashMap<UserId, Rev> {
        self.store.list_revs(users, deadline()).await
    }

    /// The entries of a user's list that changed after a rev, at most [`REPLAY_MAX`], in the order of their revs.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) async fn list_changes(
        &self,
        user: &UserId,
        after: Rev,
    ) -> Result<Vec<(Rev, ListEntry)>> {
        let _slot = self.reads.acquire().await;
        let limit = u32::try_from(REPLAY_MAX).unwrap_or(u32::MAX);
        let read = self.store.list_changes(user, after, limit, deadline());
        read.await
    }

    /// The changes of a conversation after a rev. A message after `newest` is a new one; without `newest`, a message that is
    /// as it was sent.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) async fn changes(
        &self,
        id: ConversationId,
        after: Rev,
        newest: Option<Seq>,
    ) -> Result<Changes> {
        let _slot = self.reads.acquire().await;
        let delta = self.store.changes(id, after, deadline()).await?;
        Ok(match delta {
            Delta::None => Changes::None,
            Delta::Resync(head) => Changes::TooMany(head),
            Delta::Changes {
                changes, complete, ..
            } => {
                let ConversationChanges {
                    messages,
                    members,
                    rev,
                    ..
                } = changes;
                let pushes = messages.iter().map(|message| push(message, newest));
                Changes::Some {
                    changes: pushes.collect(),
                    through: rev,
                    newest: messages
                        .iter()
                        .map(|message| message.seq)
                        .max()
                        .unwrap_or_default(),
                    complete,
                    members: !members.is_empty(),
                }
            }
        })
    }

    /// The newest messages of a conversation up to `head`, oldest first, as the member `reader` sees them: at most `most`.
    ///
    /// # Errors
    /// [`Error::NotMember`]; others when they cannot be read.
    pub(super) async fn messages_up_to(
        &self,
        head: &ConversationHead,
        reader: &UserId,
        most: usize,
    ) -> Result<Vec<Message>> {
        let caller = Caller::new(reader.clone(), READ_TIMEOUT);
        let before = Position::Before(head.head_seq.next());
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let _slot = self.reads.acquire().await;
        let page = self
            .store
            .history(&caller, head.conversation_id, before, most);
        Ok(page.await?.messages)
    }

    /// The members of a conversation, as the member `reader` sees them; none when there are more than `most`.
    ///
    /// # Errors
    /// [`Error::NotMember`]; others when they cannot be read.
    pub(crate) async fn members(
        &self,
        id: ConversationId,
        reader: &UserId,
        most: u64,
    ) -> Result<Option<Arc<[UserId]>>> {
        let caller = Caller::new(reader.clone(), READ_TIMEOUT);
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let _slot = self.reads.acquire().await;
        let page = self.store.members(&caller, id, None, most).await?;
        let members = page.members.into_iter().map(|member| member.user_id);
        Ok(page.next_cursor.is_none().then(|| members.collect()))
    }
}

fn deadline() -> Instant {
    Instant::now() + READ_TIMEOUT
}

/// The push that carries a message of a log.
fn push(message: &Message, newest: Option<Seq>) -> Push {
    let is_new = match newest {
        Some(newest) => message.seq > newest,
        None => message.edited_at.is_none() && message.reactions.get() == "{}",
    };
    let kind = if message.deleted_at.is_some() {
        PushKind::MessageDeleted
    } else if is_new {
        PushKind::NewMessage
    } else {
        PushKind::MessageUpdated
    };
    message_push(kind, message)
}
