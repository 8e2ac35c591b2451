//! What other crates plug into the store. The arrows point here: the archiver and the real-time side depend on this
//! crate, never the other way round; `router` wires them.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use crate::archive::ColdPart;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, NotificationId, Rev, Seq, UserId};
use crate::message::StoredMessage;
use crate::model::{ListEntry, Message, Notification, Watermarks};
use crate::node::Shard;

/// Reads messages that no hot row holds any more (INV-TIER).
#[async_trait]
pub trait ColdTier: Send + Sync {
    /// The messages of each of `parts`, in order and without a hole, or why they were not read:
    /// [`Error::ArchiveUnavailable`] when they could not be before `deadline`, [`Error::ArchiveDamaged`] when what is there
    /// is not what was archived. Parts that are wanted together are best asked for together.
    async fn read(
        &self,
        conversation: ConversationId,
        parts: &[ColdPart],
        deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>>;

    /// Somebody reads backwards and will soon want the message before `before`. It must not block.
    fn read_ahead(&self, shard: &Arc<Shard>, conversation: ConversationId, before: Seq);
}

/// No archive: every message is hot.
#[derive(Debug, Default)]
pub struct NoArchive;

#[async_trait]
impl ColdTier for NoArchive {
    async fn read(
        &self,
        _conversation: ConversationId,
        parts: &[ColdPart],
        _deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>> {
        parts
            .iter()
            .map(|_| Err(Error::ArchiveUnavailable))
            .collect()
    }

    fn read_ahead(&self, _shard: &Arc<Shard>, _conversation: ConversationId, _before: Seq) {}
}

/// Something that was committed.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new message.
    MessageCreated(Message),
    /// An edit or a reaction.
    MessageUpdated(Message),
    /// A deletion; the message is marked and empty.
    MessageDeleted(Message),
    /// A member read or received further.
    WatermarksMoved {
        /// Who.
        user: UserId,
        /// From where: read, and received.
        before: (Seq, Seq),
        /// To where.
        watermarks: Watermarks,
        /// How many members the conversation has.
        members: u64,
    },
    /// Its title, metadata or members changed, or it was created or deleted.
    ConversationChanged {
        /// The conversation.
        conversation: ConversationId,
        /// The change.
        rev: Rev,
        /// Who is no longer a member since.
        left: Left,
    },
    /// An entry of a user's list changed.
    ListChanged {
        /// Whose.
        user: UserId,
        /// The change in the user's list; each takes the next.
        rev: Rev,
        /// The entry as it is now.
        entry: ListEntry,
    },
    /// A user was sent a notification.
    Notified {
        /// Who.
        user: UserId,
        /// What.
        notification: Notification,
    },
    /// A user read notifications.
    NotificationsRead {
        /// Whose they are.
        user: UserId,
        /// The first and the last.
        ids: (NotificationId, NotificationId),
    },
}

/// Who is no longer a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Left {
    /// Everybody still is.
    #[default]
    Nobody,
    /// One left, or was removed.
    One(UserId),
    /// The conversation was deleted.
    Everybody,
}

/// Is told what was committed, after the commit and before the caller is answered.
///
/// A hint, never the truth: an event may be lost in a crash; who needs certainty asks by `seq` and `rev`.
pub trait CommitListener: Send + Sync {
    /// Takes events of one transaction, in order. It must not block.
    fn committed(&self, events: Vec<Event>);
}

/// Nobody listens.
#[derive(Debug, Default)]
pub struct NoListener;

impl CommitListener for NoListener {
    fn committed(&self, _events: Vec<Event>) {}
}
