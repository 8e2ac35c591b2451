//! Publishes the store's commits on the bus.
//!
//! The store calls the publisher after each commit and waits for it, so that it only encodes each push once, and only for
//! topics that may have listeners. The transaction decides what happened; the publisher adds nothing and reads nothing.

use std::sync::Arc;

use backscroll_shard::commit_event::{CommitEvent, CommitListener};
use backscroll_shard::ids::{ConversationId, MessageId, Rev, Seq, UserId};
use backscroll_shard::model::{ListEntry, MediaState, Message, Watermarks};
use backscroll_shard::sync::to_cursor;
use serde::Serialize;

use crate::bus::Bus;
use crate::protocol::{
    ConversationUpdated, MessageEvent, NotificationEvent, NotificationsRead, Receipt,
};
use crate::push::{Push, PushKind, Subject, Topic};

/// In larger conversations no receipts are published: each message would cause one for every member.
const RECEIPT_MEMBERS_MAX: u64 = 100;
/// Most messages that a receipt names. Its `seq` covers all of them.
const RECEIPT_MESSAGES_MAX: u64 = 100;

/// Publishes commits on a bus.
pub struct Publisher {
    bus: Arc<dyn Bus>,
}

impl Publisher {
    /// A publisher on `bus`.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        Self { bus }
    }

    fn message(&self, kind: PushKind, message: &Message) {
        let topic = Topic::Conversation(message.conversation_id);
        if self.bus.may_have_listeners(&topic) {
            self.bus.publish(&topic, &message_push(kind, message));
        }
    }

    /// Publishes a member's moved watermarks: to all members of a conversation that is not large, and to the member's other
    /// devices. A message that was read was also delivered, so that a delivered watermark is published only beyond the read
    /// one.
    fn watermarks(
        &self,
        user: &UserId,
        (read, delivered): (Seq, Seq),
        (now, members): (Watermarks, u64),
    ) {
        let id = now.conversation_id;
        let members_topic = (members <= RECEIPT_MEMBERS_MAX).then_some(Topic::Conversation(id));
        if now.delivered_seq > delivered && now.delivered_seq > now.read_seq {
            let kind = PushKind::MessagesDelivered;
            self.receipt(
                kind,
                user,
                (id, delivered, now.delivered_seq),
                members_topic.iter(),
            );
        }
        if now.read_seq > read {
            let own = Topic::User(user.clone());
            let topics = members_topic.iter().chain([&own]);
            self.receipt(
                PushKind::MessagesRead,
                user,
                (id, read, now.read_seq),
                topics,
            );
        }
    }

    /// Publishes to a user's devices what is in no log.
    fn to_user(&self, user: UserId, kind: PushKind, data: &impl Serialize) {
        let topic = Topic::User(user);
        if self.bus.may_have_listeners(&topic) {
            let push = Push::change(kind, Rev(0), data);
            self.bus.publish(&topic, &push);
        }
    }

    fn receipt<'a>(
        &self,
        kind: PushKind,
        user: &UserId,
        (conversation, before, seq): (ConversationId, Seq, Seq),
        topics: impl Iterator<Item = &'a Topic>,
    ) {
        let topics: Vec<&Topic> = topics
            .filter(|topic| self.bus.may_have_listeners(topic))
            .collect();
        if topics.is_empty() {
            return;
        }
        let first = (before.0 + 1).max((seq.0 + 1).saturating_sub(RECEIPT_MESSAGES_MAX));
        let data = Receipt {
            conversation_id: conversation,
            seq,
            message_ids: (first..=seq.0)
                .map(|seq| MessageId {
                    conversation,
                    seq: Seq(seq),
                })
                .collect(),
            read_by: user,
        };
        let push = Push::state(kind, user.clone(), &data);
        for topic in topics {
            self.bus.publish(topic, &push);
        }
    }
}

impl CommitListener for Publisher {
    fn committed(&self, events: Vec<CommitEvent>) {
        for event in events {
            match event {
                CommitEvent::MessageCreated(message) => {
                    self.message(PushKind::NewMessage, &message)
                }
                CommitEvent::MessageUpdated(message) => {
                    self.message(PushKind::MessageUpdated, &message)
                }
                CommitEvent::MessageDeleted(message) => {
                    self.message(PushKind::MessageDeleted, &message)
                }
                CommitEvent::WatermarksMoved {
                    user,
                    before,
                    watermarks,
                    members,
                } => self.watermarks(&user, before, (watermarks, members)),
                CommitEvent::ConversationChanged {
                    conversation,
                    rev,
                    left,
                } => {
                    let topic = Topic::Conversation(conversation);
                    if self.bus.may_have_listeners(&topic) {
                        let push = Push::change(PushKind::ConversationChanged, rev, &left);
                        self.bus.publish(&topic, &push);
                    }
                }
                CommitEvent::ListChanged { user, rev, entry } => {
                    let topic = Topic::User(user);
                    if self.bus.may_have_listeners(&topic) {
                        self.bus.publish(&topic, &entry_push(rev, &entry));
                    }
                }
                CommitEvent::Notified { user, notification } => {
                    let data = NotificationEvent {
                        notification: &notification,
                    };
                    self.to_user(user, PushKind::Notification, &data);
                }
                CommitEvent::MediaProcessed { user, media } => {
                    let kind = match media.state {
                        MediaState::Failed => PushKind::MediaFailed,
                        _ => PushKind::MediaReady,
                    };
                    self.to_user(user, kind, &media);
                }
                CommitEvent::NotificationsRead { user, ids } => {
                    let (from, through) = ids;
                    let data = NotificationsRead { from, through };
                    self.to_user(user, PushKind::NotificationsRead, &data);
                }
            }
        }
    }
}

/// The push that carries a message as it is now.
#[must_use]
pub fn message_push(kind: PushKind, message: &Message) -> Push {
    let data = MessageEvent {
        conversation_id: message.conversation_id,
        message,
    };
    let push = Push::change(kind, message.rev, &data);
    match kind {
        PushKind::NewMessage => push, // it is an event of its own, whatever happened to the message since
        _ => push.of(Subject::Message(message.id)),
    }
}

/// The push that carries an entry of a user's list as it is now. `rev` is the user's, of the entry's change.
#[must_use]
pub fn entry_push(rev: Rev, entry: &ListEntry) -> Push {
    let data = ConversationUpdated {
        conversation: entry,
        cursor: to_cursor(rev),
    };
    Push::change(PushKind::ConversationUpdated, rev, &data).of(Subject::Entry(entry.id))
}
