//! The words of front-ends that say no more than `new WebSocket("ws://…/ws/chat?token=…")`: the same sessions, told in
//! their words.
//!
//! They put their token into the address or into a first message `{"type": "auth", "token": …}`, which is how the door knows them. They
//! open no conversation: a session opens its conversations by itself. They tell messages apart by `type`, expect the message
//! itself as the data of `new_message`, and say and hear `typing`. Everything else is as in the API.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use axum::http::Uri;
use backscroll_shard::model::RawJson;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::client_event::ClientEvent;
use crate::gateway::Gateway;
use crate::protocol::{Authenticate, Failure, InConversation};
use crate::session::Session;

/// A command as these front-ends give it: `{"type": "typing", "conversationId": …}`. Its data is beside its name, or in
/// `data`.
#[derive(Debug, PartialEq)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) data: Map<String, Value>,
    pub(super) ack: Option<u64>,
}

impl Command {
    /// The command that `text` is; none when it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut frame: Map<String, Value> = serde_json::from_str(text).ok()?;
        let (kind, event) = (frame.remove("type"), frame.remove("event"));
        let name = kind.or(event)?.as_str()?.to_owned();
        let ack = match frame.remove("ack") {
            Some(ack) => Some(ack.as_u64()?),
            None => None,
        };
        let data = match frame.remove("data") {
            Some(Value::Object(data)) => data,
            Some(_) => return None,
            None => frame,
        };
        Some(Self { name, data, ack })
    }

    /// What a first message says of who it is; none when it is another message.
    pub(super) fn credentials(text: &str) -> Option<Authenticate> {
        let Self { name, data, .. } = Self::parse(text)?;
        if !matches!(name.as_str(), "auth" | "authenticate") {
            return None;
        }
        serde_json::from_value(Value::from(data)).ok()
    }

    /// Does it.
    ///
    /// # Errors
    /// What the client is answered instead.
    pub(super) async fn perform(
        mut self,
        gateway: &Gateway,
        session: &Arc<Session>,
    ) -> Result<Arc<RawJson>, Failure> {
        if self.name == "typing" {
            let ends = self.data.remove("isTyping") == Some(Value::Bool(false));
            self.name = if ends { "typing_stop" } else { "typing_start" }.to_owned();
        }
        let data = Value::from(self.data).to_string();
        let opened = |id: InConversation| session.has_joined(id.conversation_id);
        if self.name == "typing_start" && !serde_json::from_str(&data).is_ok_and(opened) {
            gateway
                .commands()
                .run(session, "join_conversation", &data)
                .await?;
        }
        gateway.commands().run(session, &self.name, &data).await
    }
}

/// The token in an address: `?token=…`.
#[must_use]
pub fn token_in(address: &Uri) -> Option<&str> {
    let mut pairs = address.query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix("token="))
}

/// The frame that tells of an event: its name as `type`, and as `event` as in the API.
pub(super) fn frame(event: &ClientEvent) -> Utf8Bytes {
    let name = match event.name() {
        "user_typing" => "typing",
        name => name,
    };
    let data = event.data();
    let bare: Option<MessageData<'_>> = match name {
        "new_message" => serde_json::from_str(data).ok(),
        _ => None,
    };
    let data = bare.map_or(data, |bare| bare.message.get());
    format!(r#"{{"type":"{name}","event":"{name}","data":{data}}}"#).into()
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

    fn told(name: &'static str, data: &Value) -> Value {
        let frame = frame(&ClientEvent::named(name, Arc::new(RawJson::of(data))));
        serde_json::from_str(&frame).unwrap()
    }

    #[test]
    fn a_message_comes_bare_and_typing_by_its_name() {
        let message = json!({"id": "c-1", "content": "hi"});
        let data = json!({"conversationId": "c", "message": message});
        assert_eq!(
            told("new_message", &data),
            json!({"type": "new_message", "event": "new_message", "data": message})
        );
        assert_eq!(told("message_updated", &data)["data"], data);
        let data = json!({"conversationId": "c", "userId": "bob", "isTyping": true});
        assert_eq!(
            told("user_typing", &data),
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
            let command = Command::parse(text).unwrap();
            assert_eq!((command.name.as_str(), command.ack), ("typing", Some(7)));
            assert_eq!(Value::from(command.data), json!({"conversationId": "c"}));
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"{"type":7}"#,
            r#"{"type":"a","data":[]}"#,
            r#"{"type":"a","ack":-1}"#,
        ] {
            assert_eq!(Command::parse(text), None, "{text}");
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
