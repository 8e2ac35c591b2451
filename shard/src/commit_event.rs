//! Events of what was committed, for a listener: the real-time side plugs in here, so that this crate does not depend on it.

use serde::{Deserialize, Serialize};

use crate::ids::{ConversationId, NotificationId, Rev, Seq, UserId};
use crate::model::{ListEntry, MediaInfo, Message, Notification, Watermarks};

/// Something that was committed.
#[derive(Clone, Debug)]
pub enum CommitEvent {
    /// A new message.
    MessageCreated(Message),
    /// An edit or a reaction.
    MessageUpdated(Message),
    /// A deletion; the message is marked and empty.
    MessageDeleted(Message),
    /// A member read or received further.
    WatermarksMoved {
        /// The user.
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
        /// The members that it removed.
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
        /// The user.
        user: UserId,
        /// What.
        notification: Notification,
    },
    /// A picture of a user's was processed.
    MediaProcessed {
        /// The uploader.
        user: UserId,
        /// The file as it is now.
        media: MediaInfo,
    },
    /// A user read notifications.
    NotificationsRead {
        /// Whose they are.
        user: UserId,
        /// The first and the last.
        ids: (NotificationId, NotificationId),
    },
}

/// The members that a change removed.
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

/// Receives the events of commits, after the commit and before the caller is answered.
///
/// A hint, never the truth: an event may be lost in a crash; a reader that needs certainty asks by `seq` and `rev`.
pub trait CommitListener: Send + Sync {
    /// Takes events of one transaction, in order. It must not block.
    fn committed(&self, events: Vec<CommitEvent>);
}

/// Nobody listens.
#[derive(Debug, Default)]
pub struct NoListener;

impl CommitListener for NoListener {
    fn committed(&self, _events: Vec<CommitEvent>) {}
}
