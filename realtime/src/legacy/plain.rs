//! The dialect of front-ends with a plain `new WebSocket("ws://…/ws/chat?token=…")`.
//!
//! The native door recognises them by their token: it is in the address, or in a first message `{"type": "auth", "token": …}`.
//! They join no conversation, tell messages apart by `type`, expect the message itself as the data of `new_message`, and use
//! `typing` as a command and as an event. Everything else is as in the API.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::Uri;
use backscroll_shard::ids::UserId;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::auto_join;
use crate::client_event::ClientEvent;
use crate::door::{Command, Dialect, Outcome};
use crate::gateway::Gateway;
use crate::protocol::commands::{Answer, CommandName};
use crate::protocol::events::EventName;
use crate::protocol::{Authenticate, InConversation};
use crate::session::Session;

/// The command and the event that tell of typing.
const TYPING: &str = "typing";

/// The dialect.
pub(crate) fn dialect() -> Arc<dyn Dialect> {
    Arc::new(Plain)
}

struct Plain;

#[async_trait]
impl Dialect for Plain {
    async fn session_opened(&self, gateway: &Gateway, session: &Arc<Session>) {
        auto_join::session_opened(gateway, session).await;
    }

    async fn before_event(&self, gateway: &Gateway, session: &Arc<Session>, event: &ClientEvent) {
        auto_join::before_event(gateway, session, event).await;
    }

    async fn run(&self, gateway: &Gateway, session: &Arc<Session>, command: &Command) -> Outcome {
        Outcome {
            ack: command.ack,
            event: None,
            answer: run(gateway, session, &command.name, &command.data).await,
        }
    }

    fn write(&self, event: &ClientEvent, _: &UserId) -> Option<String> {
        Some(frame(event))
    }
}

async fn run(gateway: &Gateway, session: &Arc<Session>, name: &str, data: &str) -> Answer {
    if name != TYPING {
        return start_typing(gateway, session, name, data).await;
    }
    let mut data: Map<String, Value> = serde_json::from_str(data).unwrap_or_default();
    let ends = data.remove("isTyping") == Some(Value::Bool(false));
    let name = if ends {
        CommandName::StopTyping
    } else {
        CommandName::StartTyping
    };
    let data = Value::from(data).to_string();
    start_typing(gateway, session, name.name(), &data).await
}

/// Carries out a command. Typing in a conversation that is not open opens it.
async fn start_typing(gateway: &Gateway, session: &Arc<Session>, name: &str, data: &str) -> Answer {
    let commands = gateway.commands();
    let is_open = |data: InConversation| session.has_joined(data.conversation_id);
    if name == CommandName::StartTyping.name() && !serde_json::from_str(data).is_ok_and(is_open) {
        commands
            .run(session, CommandName::Join.name(), data)
            .await?;
    }
    commands.run(session, name, data).await
}

/// Reads a command, such as `{"type": "typing", "conversationId": …}`: its data is beside its name, or in `data`. None when the
/// frame is malformed.
pub(crate) fn command(frame: &str) -> Option<Command> {
    let mut frame: Map<String, Value> = serde_json::from_str(frame).ok()?;
    let (kind, event) = (frame.remove("type"), frame.remove("event"));
    let name = kind.or(event)?.as_str()?.into();
    let ack = match frame.remove("ack") {
        Some(ack) => Some(ack.as_u64()?),
        None => None,
    };
    let data = match frame.remove("data") {
        Some(Value::Object(data)) => data,
        Some(_) => return None,
        None => frame,
    };
    Some(Command {
        name,
        data: Value::from(data).to_string().into(),
        ack,
        binary: false,
    })
}

/// Reads the token of a first message; none when it is another message.
pub(crate) fn credentials(frame: &str) -> Option<Authenticate> {
    let Command { name, data, .. } = command(frame)?;
    if !matches!(&*name, "auth" | "authenticate") {
        return None;
    }
    serde_json::from_str(&data).ok()
}

/// The token in an address: `?token=…`.
#[must_use]
pub fn token_in(address: &Uri) -> Option<&str> {
    let mut pairs = address.query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix("token="))
}

/// The frame of an event: its name as `type`, and as `event` as in the API.
pub(crate) fn frame(event: &ClientEvent) -> String {
    let (name, data) = (event.name(), event.data());
    let name = if name == EventName::UserTyping.name() {
        TYPING
    } else {
        name
    };
    let bare: Option<MessageData<'_>> = if name == EventName::NewMessage.name() {
        serde_json::from_str(data).ok()
    } else {
        None
    };
    let data = bare.map_or(data, |bare| bare.message.get());
    format!(r#"{{"type":"{name}","event":"{name}","data":{data}}}"#)
}

#[derive(Deserialize)]
struct MessageData<'a> {
    #[serde(borrow)]
    message: &'a RawValue,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(name: EventName, data: &Value) -> Value {
        serde_json::from_str(&frame(&ClientEvent::new(name, data))).unwrap()
    }

    #[test]
    fn a_message_comes_bare_and_typing_by_its_name() {
        let message = json!({"id": "c-1", "content": "hi"});
        let data = json!({"conversationId": "c", "message": message});
        assert_eq!(
            written(EventName::NewMessage, &data),
            json!({"type": "new_message", "event": "new_message", "data": message})
        );
        assert_eq!(written(EventName::MessageUpdated, &data)["data"], data);
        let data = json!({"conversationId": "c", "userId": "bob", "isTyping": true});
        assert_eq!(
            written(EventName::UserTyping, &data),
            json!({"type": "typing", "event": "typing", "data": data})
        );
    }

    #[test]
    fn data_is_beside_the_name_or_in_its_place() {
        for text in [
            r#"{"type":"typing","conversationId":"c","ack":7}"#,
            r#"{"type":"typing","data":{"conversationId":"c"},"ack":7}"#,
            r#"{"event":"typing","data":{"conversationId":"c"},"ack":7}"#,
        ] {
            let command = command(text).unwrap();
            assert_eq!((&*command.name, command.ack), ("typing", Some(7)));
            assert_eq!(&*command.data, r#"{"conversationId":"c"}"#);
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"{"type":7}"#,
            r#"{"type":"a","data":[]}"#,
            r#"{"type":"a","ack":-1}"#,
        ] {
            assert_eq!(command(text), None, "{text}");
        }
    }

    #[test]
    fn the_token_is_found_in_the_address() {
        let token = |address: &'static str| token_in(&address.parse().unwrap()).map(str::to_owned);
        assert_eq!(token("/ws/chat?token=a.b-c"), Some("a.b-c".to_owned()));
        assert_eq!(token("/ws/chat?v=1&token=a&x"), Some("a".to_owned()));
        for address in ["/ws/chat", "/ws/chat?", "/ws/chat?mytoken=a"] {
            assert_eq!(token(address), None, "{address}");
        }
    }
}
