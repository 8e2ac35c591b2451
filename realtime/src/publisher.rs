//! Publishes what the store has committed.
//!
//! The store calls it after each commit and waits for it, so it does no more than encode each event once, and only where
//! somebody may hear it. Who did what is decided by the transaction; this adds nothing and asks nothing.

use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId};
use backscroll_shard::model::{Message, Watermarks};
use backscroll_shard::seams::{CommitListener, Event};
use serde::Serialize;

use crate::bus::Bus;
use crate::push::{Push, PushKind, Topic};

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

    /// Tells `data` to whom `topics` concern.
    fn publish(
        &self,
        topics: &[Topic],
        kind: PushKind,
        conversation: ConversationId,
        data: &impl Serialize,
    ) {
        if !topics.iter().any(|topic| self.bus.may_be_heard(topic)) {
            return;
        }
        let push = Push::new(kind, conversation, data);
        for topic in topics {
            self.bus.publish(topic, &push);
        }
    }

    fn message(&self, kind: PushKind, message: &Message) {
        let conversation_id = message.conversation_id;
        let data = MessageData {
            conversation_id,
            message,
        };
        self.publish(
            &[Topic::Conversation(conversation_id)],
            kind,
            conversation_id,
            &data,
        );
    }

    /// A member's watermarks concern all members, and their own other devices. Reading is receiving, so what is
    /// delivered is told only where it is further than what is read.
    fn watermarks(&self, user: &UserId, watermarks: Watermarks) {
        let conversation_id = watermarks.conversation_id;
        let topics = [
            Topic::Conversation(conversation_id),
            Topic::User(user.clone()),
        ];
        let read_by = user;
        if watermarks.delivered_seq > watermarks.read_seq {
            let data = WatermarkData {
                conversation_id,
                seq: watermarks.delivered_seq,
                read_by,
            };
            self.publish(&topics, PushKind::MessagesDelivered, conversation_id, &data);
        }
        let data = WatermarkData {
            conversation_id,
            seq: watermarks.read_seq,
            read_by,
        };
        self.publish(&topics, PushKind::MessagesRead, conversation_id, &data);
    }
}

impl CommitListener for Publisher {
    fn committed(&self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::MessageCreated(message) => self.message(PushKind::NewMessage, &message),
                Event::MessageUpdated(message) => self.message(PushKind::MessageUpdated, &message),
                Event::MessageDeleted(message) => self.message(PushKind::MessageDeleted, &message),
                Event::WatermarksMoved { user, watermarks } => self.watermarks(&user, watermarks),
                Event::ConversationChanged { conversation, rev } => {
                    let data = ConversationData {
                        conversation_id: conversation,
                        rev,
                    };
                    self.publish(
                        &[Topic::Conversation(conversation)],
                        PushKind::ConversationChanged,
                        conversation,
                        &data,
                    );
                }
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageData<'a> {
    conversation_id: ConversationId,
    message: &'a Message,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WatermarkData<'a> {
    conversation_id: ConversationId,
    seq: Seq,
    read_by: &'a UserId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConversationData {
    conversation_id: ConversationId,
    rev: Rev,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use backscroll_shard::ids::{MessageId, UserKey};
    use backscroll_shard::model::{DeliveryStatus, MessageType, RawJson, Timestamp};

    use super::*;
    use crate::bus::{BusUnavailable, Delivery, Listener};
    use crate::in_process::InProcessBus;

    fn conversation() -> ConversationId {
        ConversationId::new(UserKey(1), 2)
    }

    fn alice() -> UserId {
        UserId::new("alice").unwrap()
    }

    fn message(seq: u64) -> Message {
        let raw = |text: &str| RawJson::parse(text.into()).unwrap();
        Message {
            id: MessageId {
                conversation: conversation(),
                seq: Seq(seq),
            },
            conversation_id: conversation(),
            seq: Seq(seq),
            rev: Rev(seq),
            sender_id: alice(),
            content: "hi".into(),
            message_type: MessageType::Text,
            client_msg_id: None,
            reply_to: None,
            attachments: raw("[]"),
            reactions: raw("{}"),
            metadata: raw("{}"),
            created_at: Timestamp(0),
            edited_at: None,
            deleted_at: None,
            status: DeliveryStatus::Sent,
            edit_history: None,
        }
    }

    fn moved(read: u64, delivered: u64) -> Event {
        let watermarks = Watermarks {
            conversation_id: conversation(),
            read_seq: Seq(read),
            delivered_seq: Seq(delivered),
            unread_count: 0,
        };
        Event::WatermarksMoved {
            user: alice(),
            watermarks,
        }
    }

    /// Publishes `events` and gives what a listener to `topic` was told: the client protocol's event and its data.
    async fn told(topic: Topic, events: Vec<Event>) -> Vec<(&'static str, serde_json::Value)> {
        let bus = Arc::new(InProcessBus::new());
        let listener = Listener::new(16);
        bus.subscribe(&listener, topic).await.unwrap();
        Publisher::new(bus).committed(events);
        let mut told = Vec::new();
        while let Ok(delivery) =
            tokio::time::timeout(std::time::Duration::from_millis(50), listener.next()).await
        {
            let Delivery::Push(push) = delivery else {
                panic!("lagged")
            };
            assert_eq!(push.conversation(), conversation());
            told.push((
                push.kind().event(),
                serde_json::from_str(push.data()).unwrap(),
            ));
        }
        told
    }

    #[tokio::test]
    async fn messages_are_told_to_who_has_the_conversation_open_in_the_order_of_the_commit() {
        let events = vec![
            Event::MessageCreated(message(1)),
            Event::MessageUpdated(message(1)),
            Event::MessageDeleted(message(2)),
        ];
        let told = told(Topic::Conversation(conversation()), events).await;
        let names: Vec<_> = told.iter().map(|(event, _)| *event).collect();
        assert_eq!(names, ["new_message", "message_updated", "message_deleted"]);
        let expected = serde_json::json!({"conversationId": conversation(), "message": message(1)});
        assert_eq!(told[0].1, expected);
    }

    #[tokio::test]
    async fn watermarks_are_told_to_the_members_and_to_ones_other_devices() {
        for topic in [Topic::Conversation(conversation()), Topic::User(alice())] {
            let told = told(topic, vec![moved(3, 5), moved(5, 5)]).await;
            let data = |seq: u64| serde_json::json!({"conversationId": conversation(), "seq": seq, "readBy": "alice"});
            assert_eq!(
                told,
                [
                    ("messages_delivered", data(5)),
                    ("messages_read", data(3)),
                    ("messages_read", data(5))
                ]
            );
        }
    }

    #[tokio::test]
    async fn a_changed_conversation_is_named_with_its_rev() {
        let event = Event::ConversationChanged {
            conversation: conversation(),
            rev: Rev(9),
        };
        let told = told(Topic::Conversation(conversation()), vec![event]).await;
        assert_eq!(
            told,
            [(
                "conversation_updated",
                serde_json::json!({"conversationId": conversation(), "rev": 9})
            )]
        );
    }

    #[derive(Default)]
    struct Deaf {
        published: AtomicUsize,
    }

    #[async_trait]
    impl Bus for Deaf {
        fn publish(&self, _topic: &Topic, _push: &Push) {
            self.published.fetch_add(1, Ordering::Relaxed);
        }
        fn may_be_heard(&self, _topic: &Topic) -> bool {
            false
        }
        async fn subscribe(
            &self,
            _listener: &Listener,
            _topic: Topic,
        ) -> Result<(), BusUnavailable> {
            Ok(())
        }
        async fn unsubscribe(&self, _listener: &Listener, _topic: &Topic) {}
    }

    #[test]
    fn what_nobody_hears_is_not_encoded() {
        let bus = Arc::new(Deaf::default());
        Publisher::new(Arc::clone(&bus) as Arc<dyn Bus>)
            .committed(vec![Event::MessageCreated(message(1)), moved(1, 1)]);
        assert_eq!(bus.published.load(Ordering::Relaxed), 0);
    }
}
