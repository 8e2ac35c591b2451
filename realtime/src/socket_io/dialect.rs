//! Namespaces of older front-ends: the same sessions, told in their words.
//!
//! These front-ends name a person, not a conversation, and open none: a session opens its conversations by itself. Their
//! names are in one table for each namespace; whatever is in none keeps its own name as a command, and is not told as an
//! event.

use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::{Caller, ConversationKind, NewConversation, RawJson};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::packet;
use crate::client_event::ClientEvent;
use crate::command::COMMAND_TIMEOUT;
use crate::gateway::Gateway;
use crate::opening;
use crate::protocol::Failure;
use crate::session::Session;

/// The words of one namespace.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Its name.
    pub(super) namespace: &'static str,
    /// Whether its sessions open their conversations.
    opens: bool,
    /// Commands, as they call them.
    commands: &'static [(&'static str, Command)],
    /// Events, as we call them and as they do.
    events: &'static [(&'static str, Told)],
}

/// What a command of theirs is.
#[derive(Clone, Copy, Debug)]
enum Command {
    /// One of ours, which names a conversation.
    InConversation(&'static str),
    /// One of ours as it is.
    Plain(&'static str),
    /// The same, whose answer comes as an event when there is no callback.
    Told(&'static str, &'static str),
}

/// How an event of ours is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// By another name.
    As(&'static str),
    /// A message: to its sender, and to others.
    Message {
        sent: &'static str,
        received: &'static str,
    },
    /// A notification itself, with the fields that they look for.
    Notification(&'static str),
}

/// All of them.
pub(super) const DIALECTS: &[Dialect] = &[
    Dialect {
        namespace: "/messaging",
        opens: true,
        commands: &[
            ("NEW_MESSAGE", Command::InConversation("send_message")),
            ("TYPING_START", Command::InConversation("typing_start")),
            ("TYPING_STOP", Command::InConversation("typing_stop")),
            ("MESSAGE_READ_UPDATE", Command::InConversation("mark_read")),
        ],
        events: &[
            (
                "new_message",
                Told::Message {
                    sent: "MESSAGE_SENT",
                    received: "NEW_MESSAGE",
                },
            ),
            ("user_typing", Told::As("USER_TYPING")),
            ("messages_read", Told::As("MESSAGE_READ_UPDATE")),
            ("reconnect", Told::As("reconnect")),
            ("error", Told::As("error")),
        ],
    },
    Dialect {
        namespace: "/realtime",
        opens: true,
        commands: &[
            ("message:new", Command::InConversation("send_message")),
            ("TYPING_START", Command::InConversation("typing_start")),
            ("TYPING_STOP", Command::InConversation("typing_stop")),
        ],
        events: &[
            (
                "new_message",
                Told::Message {
                    sent: "message:sent",
                    received: "message:new",
                },
            ),
            ("user_typing", Told::As("USER_TYPING")),
            ("messages_read", Told::As("MESSAGE_READ_UPDATE")),
            ("reconnect", Told::As("reconnect")),
            ("error", Told::As("error")),
        ],
    },
    Dialect {
        namespace: "/notifications",
        opens: false,
        commands: &[
            (
                "notification:get_unread_count",
                Command::Told("unread_notifications", "notification:unread_count"),
            ),
            (
                "notification:mark_read",
                Command::Plain("mark_notification_read"),
            ),
        ],
        events: &[
            ("notification", Told::Notification("notification:new")),
            (
                "notification:unread_count",
                Told::As("notification:unread_count"),
            ),
            ("reconnect", Told::As("reconnect")),
            ("error", Told::As("error")),
        ],
    },
];

impl Dialect {
    /// The words of a namespace; none where the API's own are spoken.
    pub(super) fn of(namespace: &str) -> Option<&'static Self> {
        let mut all = DIALECTS.iter();
        all.find(|dialect| dialect.namespace == namespace)
    }

    /// The packet that tells `user` of an event; none for what is not told.
    pub(super) fn packet(&self, event: &ClientEvent, user: &UserId) -> Option<String> {
        let (_, told) = self.events.iter().find(|(name, _)| *name == event.name())?;
        match told {
            Told::As(name) => Some(packet::event(self.namespace, name, event.data())),
            Told::Message { sent, received } => {
                let data: MessageData<'_> = serde_json::from_str(event.data()).ok()?;
                let message: MessageHead = serde_json::from_str(data.message.get()).ok()?;
                if message.sender_id == *user {
                    let data = format!(
                        r#"{{"messageId":{},"message":{}}}"#,
                        Value::from(message.id),
                        data.message.get()
                    );
                    return Some(packet::event(self.namespace, sent, &data));
                }
                // The message as it is, and whose it was.
                let fields = data.message.get().strip_prefix('{')?;
                let receiver = Value::from(user.as_str());
                let data = format!(r#"{{"receiverId":{receiver},{fields}"#);
                Some(packet::event(self.namespace, received, &data))
            }
            Told::Notification(name) => {
                let data: NotificationData<'_> = serde_json::from_str(event.data()).ok()?;
                let body: NotificationBody<'_> =
                    serde_json::from_str(data.notification.get()).ok()?;
                let fields = data.notification.get().strip_prefix('{')?;
                let message = body.body.get();
                let data = format!(r#"{{"message":{message},"read":false,{fields}"#);
                Some(packet::event(self.namespace, name, &data))
            }
        }
    }

    /// Opens the conversations of a session that begins.
    pub(super) async fn begin(&self, gateway: &Gateway, session: &Arc<Session>) {
        if self.opens {
            opening::begin(gateway, session).await;
        }
    }

    /// Opens a conversation that `event` says is new in the list.
    pub(super) async fn heard(
        &self,
        gateway: &Gateway,
        session: &Arc<Session>,
        event: &ClientEvent,
    ) {
        if self.opens {
            opening::heard(gateway, session, event).await;
        }
    }

    /// Does a command; the name of the event that brings its answer where there is no callback.
    ///
    /// # Errors
    /// What the client is answered instead.
    pub(super) async fn command(
        &self,
        gateway: &Gateway,
        session: &Arc<Session>,
        last: &mut Option<(UserId, ConversationId)>,
        (name, data): (&str, &str),
    ) -> (Option<&'static str>, Result<Arc<RawJson>, Failure>) {
        let command = self.commands.iter().find(|(theirs, _)| *theirs == name);
        match command.map(|(_, command)| *command) {
            None => (None, gateway.commands().run(session, name, data).await),
            Some(Command::Plain(ours)) => (None, gateway.commands().run(session, ours, data).await),
            Some(Command::Told(ours, answer)) => (
                Some(answer),
                gateway.commands().run(session, ours, data).await,
            ),
            Some(Command::InConversation(ours)) => {
                let outcome = match address(gateway, session, last, data).await {
                    Ok(data) => gateway.commands().run(session, ours, &data).await,
                    Err(failure) => Err(failure),
                };
                (None, outcome)
            }
        }
    }
}

/// Puts a conversation in the place of the person that `data` names, and opens it.
async fn address(
    gateway: &Gateway,
    session: &Arc<Session>,
    last: &mut Option<(UserId, ConversationId)>,
    data: &str,
) -> Result<String, Failure> {
    let mut data: Map<String, Value> =
        serde_json::from_str(data).map_err(|error| Failure::invalid(format!("data: {error}")))?;
    data.remove("senderId"); // the token says who it is
    let Some(receiver) = data.remove("receiverId") else {
        return Ok(Value::from(data).to_string()); // perhaps it names a conversation
    };
    let receiver: UserId = serde_json::from_value(receiver)
        .map_err(|error| Failure::invalid(format!("receiverId: {error}")))?;
    let id = match last {
        Some((user, id)) if *user == receiver => *id,
        _ => {
            let (rate, burst) = (
                gateway.settings().commands_per_second,
                gateway.settings().command_burst,
            );
            session
                .charge(rate, burst, 1)
                .map_err(Failure::rate_limited)?;
            let id = direct(gateway, session, receiver.clone()).await?;
            *last = Some((receiver, id));
            id
        }
    };
    if !session.has_joined(id) {
        opening::open(gateway, session, id, None).await;
    }
    data.insert("conversationId".to_owned(), json!(id));
    Ok(Value::from(data).to_string())
}

/// The direct conversation with another user, which is created when there is none.
async fn direct(
    gateway: &Gateway,
    session: &Session,
    other: UserId,
) -> Result<ConversationId, Failure> {
    let caller = Caller::new(session.user.clone(), COMMAND_TIMEOUT);
    let new = NewConversation {
        kind: ConversationKind::Direct,
        members: vec![other],
        title: None,
        metadata: None,
    };
    let store = gateway.store();
    let created = store.create_conversation(&caller, new, None).await;
    Ok(created.map_err(|error| gateway.failure(error))?.0.id)
}

#[derive(Deserialize)]
struct MessageData<'a> {
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Deserialize)]
struct NotificationData<'a> {
    #[serde(borrow)]
    notification: &'a RawValue,
}

#[derive(Deserialize)]
struct NotificationBody<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageHead {
    id: String,
    sender_id: UserId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn a_message_is_told_to_its_sender_and_to_others() {
        let data = json!({"conversationId": "c", "message": {"id": "c-1", "senderId": "alice", "content": "hi"}});
        let event = ClientEvent::named("new_message", Arc::new(RawJson::of(&data)));
        let messaging = Dialect::of("/messaging").unwrap();
        assert_eq!(
            messaging.packet(&event, &user("bob")).unwrap(),
            r#"2/messaging,["NEW_MESSAGE",{"receiverId":"bob","content":"hi","id":"c-1","senderId":"alice"}]"#
        );
        assert_eq!(
            messaging.packet(&event, &user("alice")).unwrap(),
            r#"2/messaging,["MESSAGE_SENT",{"messageId":"c-1","message":{"content":"hi","id":"c-1","senderId":"alice"}}]"#
        );
        let realtime = Dialect::of("/realtime").unwrap();
        let told = realtime.packet(&event, &user("bob")).unwrap();
        assert!(told.starts_with(r#"2/realtime,["message:new",{"#), "{told}");
        let notifications = Dialect::of("/notifications").unwrap();
        assert_eq!(notifications.packet(&event, &user("bob")), None);
        let data = json!({"notification": {"id": "7", "title": "a", "body": "b \"c\""}});
        let event = ClientEvent::named("notification", Arc::new(RawJson::of(&data)));
        assert_eq!(
            notifications.packet(&event, &user("bob")).unwrap(),
            r#"2/notifications,["notification:new",{"message":"b \"c\"","read":false,"body":"b \"c\"","id":"7","title":"a"}]"#
        );
    }
}
