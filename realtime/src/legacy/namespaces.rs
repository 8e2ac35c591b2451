//! The dialects of front-ends that use Socket.IO in namespaces of their own.
//!
//! These front-ends name a person in place of a conversation, and join none. Their names of commands and events are in one table
//! for each namespace. A command that the table lacks has the protocol's name; an event that it lacks is not sent.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::{Caller, ConversationKind, NewConversation};
use futures_util::FutureExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::auto_join;
use crate::client_event::ClientEvent;
use crate::command::COMMAND_TIMEOUT;
use crate::door::{Command, Dialect, Outcome};
use crate::gateway::Gateway;
use crate::protocol::Failure;
use crate::protocol::commands::Answer;
use crate::session::Session;
use crate::socket_io::packet;

/// The names of one namespace.
#[derive(Debug)]
struct Words {
    namespace: &'static str,
    /// Whether its sessions join conversations by themselves.
    joins: bool,
    /// Commands: the front-end's name, and what it stands for.
    commands: &'static [(&'static str, CommandForm)],
    /// Events: the protocol's name, and the form that the front-end expects.
    events: &'static [(&'static str, EventForm)],
}

/// A command of the protocol in a front-end's form.
#[derive(Clone, Copy, Debug)]
enum CommandForm {
    /// The same data.
    Same(&'static str),
    /// A person in place of the conversation: the direct conversation with them.
    ToPerson(&'static str),
    /// The same data. Without a callback, this event carries the answer.
    AnsweredBy(&'static str, &'static str),
}

/// An event of the protocol in a front-end's form.
#[derive(Clone, Copy, Debug)]
enum EventForm {
    /// The same data under this name.
    As(&'static str),
    /// The message, under one name for its sender and another for the other members.
    Message {
        sent: &'static str,
        received: &'static str,
    },
    /// The notification with two fields more.
    Notification(&'static str),
    /// A notification whose type begins with `connection:`: its metadata, under its type.
    Connection,
}

/// The namespaces.
const WORDS: &[Words] = &[
    Words {
        namespace: "/messaging",
        joins: true,
        commands: &[
            ("NEW_MESSAGE", CommandForm::ToPerson("send_message")),
            ("TYPING_START", CommandForm::ToPerson("typing_start")),
            ("TYPING_STOP", CommandForm::ToPerson("typing_stop")),
            ("MESSAGE_READ_UPDATE", CommandForm::ToPerson("mark_read")),
            ("PRESENCE_UPDATE", CommandForm::Same("presence_update")),
        ],
        events: &[
            (
                "new_message",
                EventForm::Message {
                    sent: "MESSAGE_SENT",
                    received: "NEW_MESSAGE",
                },
            ),
            ("user_typing", EventForm::As("USER_TYPING")),
            ("messages_read", EventForm::As("MESSAGE_READ_UPDATE")),
            ("user_online", EventForm::As("USER_ONLINE")),
            ("user_offline", EventForm::As("USER_OFFLINE")),
            ("reconnect", EventForm::As("reconnect")),
            ("error", EventForm::As("error")),
        ],
    },
    Words {
        namespace: "/realtime",
        joins: true,
        commands: &[
            ("message:new", CommandForm::ToPerson("send_message")),
            ("TYPING_START", CommandForm::ToPerson("typing_start")),
            ("TYPING_STOP", CommandForm::ToPerson("typing_stop")),
            ("presence:update", CommandForm::Same("presence_update")),
        ],
        events: &[
            (
                "new_message",
                EventForm::Message {
                    sent: "message:sent",
                    received: "message:new",
                },
            ),
            ("user_typing", EventForm::As("USER_TYPING")),
            ("messages_read", EventForm::As("MESSAGE_READ_UPDATE")),
            ("user_online", EventForm::As("user:online")),
            ("user_offline", EventForm::As("user:offline")),
            ("notification", EventForm::Connection),
            ("reconnect", EventForm::As("reconnect")),
            ("error", EventForm::As("error")),
        ],
    },
    Words {
        namespace: "/notifications",
        joins: false,
        commands: &[
            (
                "notification:get_unread_count",
                CommandForm::AnsweredBy("unread_notifications", "notification:unread_count"),
            ),
            (
                "notification:mark_read",
                CommandForm::Same("mark_notification_read"),
            ),
        ],
        events: &[
            ("notification", EventForm::Notification("notification:new")),
            (
                "notification:unread_count",
                EventForm::As("notification:unread_count"),
            ),
            ("reconnect", EventForm::As("reconnect")),
            ("error", EventForm::As("error")),
        ],
    },
];

/// The names of all namespaces.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|words| words.namespace)
}

/// The dialect of a namespace for one session; none for the namespace of the API.
pub(crate) fn dialect(namespace: &str) -> Option<Arc<dyn Dialect>> {
    let words = WORDS.iter().find(|words| words.namespace == namespace)?;
    Some(Arc::new(Namespace {
        words,
        last: Mutex::default(),
    }))
}

struct Namespace {
    words: &'static Words,
    /// The person that the last command named, and the conversation with them: most commands name the same again.
    last: Mutex<Option<(UserId, ConversationId)>>,
}

#[async_trait]
impl Dialect for Namespace {
    async fn session_opened(&self, gateway: &Gateway, session: &Arc<Session>) {
        if self.words.joins {
            auto_join::session_opened(gateway, session).await;
        }
    }

    async fn before_event(&self, gateway: &Gateway, session: &Arc<Session>, event: &ClientEvent) {
        if self.words.joins {
            auto_join::before_event(gateway, session, event).await;
        }
    }

    async fn run(&self, gateway: &Gateway, session: &Arc<Session>, command: &Command) -> Outcome {
        let Command { name, data, .. } = command;
        let mut commands = self.words.commands.iter();
        let form = commands.find(|(theirs, _)| **theirs == **name);
        let (event, answer): (_, Answer) = match form.map(|(_, form)| *form) {
            None => (None, gateway.commands().run(session, name, data).await),
            Some(CommandForm::Same(ours)) => {
                (None, gateway.commands().run(session, ours, data).await)
            }
            Some(CommandForm::AnsweredBy(ours, event)) => {
                let answer = gateway.commands().run(session, ours, data).await;
                (Some(event), answer)
            }
            Some(CommandForm::ToPerson(ours)) => {
                let answer = match self.to_conversation(gateway, session, data).await {
                    Ok(data) => gateway.commands().run(session, ours, &data).await,
                    Err(failure) => Err(failure),
                };
                (None, answer)
            }
        };
        Outcome {
            ack: command.ack,
            event,
            answer,
        }
    }

    fn write(&self, event: &ClientEvent, user: &UserId) -> Option<String> {
        if event.is_custom() {
            let namespace = self.words.namespace;
            return Some(packet::event(namespace, event.name(), event.data()));
        }
        let mut events = self.words.events.iter();
        let (_, form) = events.find(|(name, _)| *name == event.name())?;
        let (name, data) = match form {
            EventForm::As(name) => (*name, event.data().to_owned()),
            EventForm::Message { sent, received } => message(event, user, (sent, received))?,
            EventForm::Notification(name) => (*name, notification(event)?),
            EventForm::Connection => return connection(self.words.namespace, event),
        };
        Some(packet::event(self.words.namespace, name, &data))
    }
}

impl Namespace {
    /// Puts a conversation in place of the person that `data` names, and joins it.
    async fn to_conversation(
        &self,
        gateway: &Gateway,
        session: &Arc<Session>,
        data: &str,
    ) -> Result<String, Failure> {
        let mut data: Map<String, Value> = serde_json::from_str(data)
            .map_err(|error| Failure::invalid(format!("data: {error}")))?;
        data.remove("senderId"); // the token names the sender
        let Some(receiver) = data.remove("receiverId") else {
            return Ok(Value::from(data).to_string()); // it may name a conversation
        };
        let receiver: UserId = serde_json::from_value(receiver)
            .map_err(|error| Failure::invalid(format!("receiverId: {error}")))?;
        let id = self.conversation_with(gateway, session, receiver).await?;
        if !session.has_joined(id) {
            auto_join::join(gateway, session, id).await;
        }
        data.insert("conversationId".to_owned(), json!(id));
        Ok(Value::from(data).to_string())
    }

    /// The direct conversation with another user, which is created when there is none. A look-up costs as much of the
    /// session's rate as a command.
    async fn conversation_with(
        &self,
        gateway: &Gateway,
        session: &Arc<Session>,
        other: UserId,
    ) -> Result<ConversationId, Failure> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((user, id)) = &*last()
            && *user == other
        {
            return Ok(*id);
        }
        gateway.commands().charge(session, 1)?;
        let caller = Caller::new(session.user.clone(), COMMAND_TIMEOUT);
        let new = NewConversation {
            kind: ConversationKind::Direct,
            members: vec![other.clone()],
            title: None,
            metadata: None,
        };
        let creating = gateway.store().create_conversation(&caller, new, None);
        let created = creating.boxed().await; // rare, and large
        let (conversation, ..) = created.map_err(|error| gateway.failure(error))?;
        *last() = Some((other, conversation.id));
        Ok(conversation.id)
    }
}

/// The name and data of a message's event: for its sender the message under its id, for the others its fields and the receiver.
fn message(
    event: &ClientEvent,
    user: &UserId,
    (sent, received): (&'static str, &'static str),
) -> Option<(&'static str, String)> {
    let data: MessageData<'_> = serde_json::from_str(event.data()).ok()?;
    let message: MessageHead = serde_json::from_str(data.message.get()).ok()?;
    if message.sender_id == *user {
        let (id, message) = (Value::from(message.id), data.message.get());
        let data = format!(r#"{{"messageId":{id},"message":{message}}}"#);
        return Some((sent, data));
    }
    let fields = data.message.get().strip_prefix('{')?;
    let receiver = Value::from(user.as_str());
    Some((received, format!(r#"{{"receiverId":{receiver},{fields}"#)))
}

/// The data of a notification's event: its fields, its body as `message`, and `read`.
fn notification(event: &ClientEvent) -> Option<String> {
    let data: NotificationData<'_> = serde_json::from_str(event.data()).ok()?;
    let body: NotificationBody<'_> = serde_json::from_str(data.notification.get()).ok()?;
    let fields = data.notification.get().strip_prefix('{')?;
    let message = body.body.get();
    Some(format!(r#"{{"message":{message},"read":false,{fields}"#))
}

/// The packet of a notification about a connection between two people, under its type.
fn connection(namespace: &str, event: &ClientEvent) -> Option<String> {
    let data: NotificationData<'_> = serde_json::from_str(event.data()).ok()?;
    let notification: ConnectionNotification<'_> =
        serde_json::from_str(data.notification.get()).ok()?;
    let kind = &*notification.kind;
    let data = notification.metadata.get();
    (kind.starts_with("connection:")).then(|| packet::event(namespace, kind, data))
}

#[derive(Deserialize)]
struct ConnectionNotification<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    metadata: &'a RawValue,
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
    use crate::protocol::events::EventName;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn a_message_has_a_form_for_its_sender_and_one_for_the_others() {
        let data = json!({"conversationId": "c", "message": {"id": "c-1", "senderId": "alice", "content": "hi"}});
        let event = ClientEvent::new(EventName::NewMessage, &data);
        let messaging = dialect("/messaging").unwrap();
        assert_eq!(
            messaging.write(&event, &user("bob")).unwrap(),
            r#"2/messaging,["NEW_MESSAGE",{"receiverId":"bob","content":"hi","id":"c-1","senderId":"alice"}]"#
        );
        assert_eq!(
            messaging.write(&event, &user("alice")).unwrap(),
            r#"2/messaging,["MESSAGE_SENT",{"messageId":"c-1","message":{"content":"hi","id":"c-1","senderId":"alice"}}]"#
        );
        let realtime = dialect("/realtime").unwrap();
        let written = realtime.write(&event, &user("bob")).unwrap();
        assert!(
            written.starts_with(r#"2/realtime,["message:new",{"#),
            "{written}"
        );
        let data = json!({"notification": {
            "id": "8", "type": "connection:accepted", "metadata": {"connection": {"id": 5}},
        }});
        let accepted = ClientEvent::new(EventName::Notification, &data);
        assert_eq!(
            realtime.write(&accepted, &user("bob")).unwrap(),
            r#"2/realtime,["connection:accepted",{"connection":{"id":5}}]"#
        );
        let offer = json!({"notification": {"id": "9", "type": "offer", "metadata": {}}});
        let offer = ClientEvent::new(EventName::Notification, &offer);
        assert_eq!(realtime.write(&offer, &user("bob")), None);
        let notifications = dialect("/notifications").unwrap();
        assert_eq!(notifications.write(&event, &user("bob")), None);
        let data = json!({"notification": {"id": "7", "title": "a", "body": "b \"c\""}});
        let event = ClientEvent::new(EventName::Notification, &data);
        assert_eq!(
            notifications.write(&event, &user("bob")).unwrap(),
            r#"2/notifications,["notification:new",{"message":"b \"c\"","read":false,"body":"b \"c\"","id":"7","title":"a"}]"#
        );
    }
}
