//! Publishes what the store has committed.
//!
//! The store calls it after each commit and waits for it, so it does no more than encode each event once, and only where
//! somebody may hear it. Who did what is decided by the transaction; this adds nothing and asks nothing.

use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, MessageId, Rev, Seq, UserId};
use backscroll_shard::model::{ListEntry, Message, Watermarks};
use backscroll_shard::seams::{CommitListener, Event};
use backscroll_shard::sync::to_cursor;

use crate::bus::Bus;
use crate::protocol::{ConversationUpdated, Done, MessageEvent, Receipt};
use crate::push::{Push, PushKind, Topic};

/// Most messages named by a receipt; its `seq` tells of all.
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
        if self.bus.may_be_heard(&topic) {
            self.bus.publish(&topic, &message_push(kind, message));
        }
    }

    /// A member's watermarks concern all members, and their own other devices. Reading is receiving, so what is
    /// delivered is told only where it is further than what is read.
    fn watermarks(&self, user: &UserId, before: (Seq, Seq), now: Watermarks) {
        let (read, delivered) = before;
        if now.delivered_seq > delivered && now.delivered_seq > now.read_seq {
            self.receipt(
                PushKind::MessagesDelivered,
                user,
                now.conversation_id,
                (delivered, now.delivered_seq),
            );
        }
        if now.read_seq > read {
            self.receipt(
                PushKind::MessagesRead,
                user,
                now.conversation_id,
                (read, now.read_seq),
            );
        }
    }

    fn receipt(
        &self,
        kind: PushKind,
        user: &UserId,
        conversation: ConversationId,
        (before, seq): (Seq, Seq),
    ) {
        let mut topics = vec![Topic::Conversation(conversation)];
        if kind == PushKind::MessagesRead {
            topics.push(Topic::User(user.clone()));
        }
        topics.retain(|topic| self.bus.may_be_heard(topic));
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
            self.bus.publish(&topic, &push);
        }
    }
}

impl CommitListener for Publisher {
    fn committed(&self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::MessageCreated(message) => self.message(PushKind::NewMessage, &message),
                Event::MessageUpdated(message) => self.message(PushKind::MessageUpdated, &message),
                Event::MessageDeleted(message) => self.message(PushKind::MessageDeleted, &message),
                Event::WatermarksMoved {
                    user,
                    before,
                    watermarks,
                } => self.watermarks(&user, before, watermarks),
                Event::ConversationChanged { conversation, rev } => {
                    let topic = Topic::Conversation(conversation);
                    if self.bus.may_be_heard(&topic) {
                        let push = Push::change(PushKind::ConversationChanged, rev, &Done {});
                        self.bus.publish(&topic, &push);
                    }
                }
                Event::ListChanged { user, rev, entry } => {
                    let topic = Topic::User(user);
                    if self.bus.may_be_heard(&topic) {
                        self.bus.publish(&topic, &entry_push(rev, &entry));
                    }
                }
            }
        }
    }
}

/// What tells of a message as it is now.
#[must_use]
pub fn message_push(kind: PushKind, message: &Message) -> Push {
    let data = MessageEvent {
        conversation_id: message.conversation_id,
        message,
    };
    Push::change(kind, message.rev, &data)
}

/// What tells of an entry of a user's list, and the user's rev of that change.
#[must_use]
pub fn entry_push(rev: Rev, entry: &ListEntry) -> Push {
    let data = ConversationUpdated {
        conversation: entry,
        cursor: to_cursor(rev),
    };
    Push::change(PushKind::ConversationUpdated, rev, &data)
}
