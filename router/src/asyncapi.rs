//! The AsyncAPI document: the real-time protocol's commands and events, generated from their types.
//!
//! What the types cannot say is in `realtime/PROTOCOL.md`. A test compares the document with the recorded one.

use backscroll_realtime::protocol::commands::{CommandDocument, describe_commands};
use backscroll_realtime::protocol::events::{EventDocument, describe_events};
use backscroll_realtime::protocol::{Authenticate, Close, Done};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::http::problem::Code;

/// The document as JSON.
#[must_use]
pub fn json() -> Vec<u8> {
    document().to_string().into_bytes()
}

/// The document, whole.
#[must_use]
pub fn document() -> Value {
    let mut api = Api::default();
    api.command::<Authenticate, Done>(
        "authenticate",
        "The first frame of a native connection; not answered",
    );
    describe_commands(&mut api);
    describe_events(&mut api);
    api.finish()
}

#[derive(Default)]
struct Api {
    schemas: Map<String, Value>,
    messages: Map<String, Value>,
    operations: Map<String, Value>,
}

impl CommandDocument for Api {
    fn command<Data: ToSchema, Reply: ToSchema>(&mut self, name: &str, summary: &str) {
        let reply = format!("{name}_reply");
        self.message::<Data>(name, summary);
        self.message::<Reply>(&reply, "The answer");
        let operation = json!({
            "action": "receive",
            "channel": {"$ref": "#/channels/chat"},
            "summary": summary,
            "messages": [in_channel(name)],
            "reply": {"channel": {"$ref": "#/channels/chat"}, "messages": [in_channel(&reply)]},
        });
        self.operations.insert(name.to_owned(), operation);
    }
}

impl EventDocument for Api {
    fn event<Data: ToSchema>(&mut self, name: &str, summary: &str) {
        self.message::<Data>(name, summary);
        let operation = json!({
            "action": "send",
            "channel": {"$ref": "#/channels/chat"},
            "summary": summary,
            "messages": [in_channel(name)],
        });
        self.operations.insert(name.to_owned(), operation);
    }
}

impl Api {
    fn message<Data: ToSchema>(&mut self, name: &str, summary: &str) {
        let mut schemas = vec![(Data::name().into_owned(), Data::schema())];
        Data::schemas(&mut schemas);
        for (schema, definition) in schemas {
            let definition = serde_json::to_value(definition).unwrap_or_default();
            self.schemas.insert(schema, definition);
        }
        let message = json!({
            "name": name,
            "summary": summary,
            "payload": {"$ref": format!("#/components/schemas/{}", Data::name())},
        });
        self.messages.insert(name.to_owned(), message);
    }

    fn finish(self) -> Value {
        let messages: Map<String, Value> = self
            .messages
            .keys()
            .map(|name| {
                let reference = format!("#/components/messages/{name}");
                (name.clone(), json!({"$ref": reference}))
            })
            .collect();
        json!({
            "asyncapi": "3.0.0",
            "info": {
                "title": "Backscroll, real time",
                "version": env!("CARGO_PKG_VERSION"),
                "description": description(),
                "license": {"name": "Apache-2.0"},
            },
            "defaultContentType": "application/json",
            "channels": {"chat": {
                "address": "/ws/chat",
                "description": "A native WebSocket. The same commands and events are at /socket.io, namespace /chat.",
                "messages": messages,
            }},
            "operations": self.operations,
            "x-comes-back": comes_back(),
            "components": {"schemas": self.schemas, "messages": self.messages},
        })
    }
}

fn in_channel(name: &str) -> Value {
    json!({"$ref": format!("#/channels/chat/messages/{name}")})
}

fn description() -> String {
    let mut text = String::from(
        "A native frame is `{\"event\": name, \"data\": payload, \"ack\"?: n}`; its answer is `{\"ack\": n, \"data\": payload}` or \
         `{\"ack\": n, \"error\": Failure}`.\n\n| close code | name | meaning | the client may come back |\n|---|---|---|---|\n",
    );
    for close in Close::ALL {
        let (code, name, meaning) = (close.code(), close.name(), close.meaning());
        let returns = close.comes_back().words();
        text.push_str(&format!("| {code} | `{name}` | {meaning} | {returns} |\n"));
    }
    text
}

/// When a client may come back, or may try the same again, after each closing and each error, in the words of `PROTOCOL.md`.
fn comes_back() -> Value {
    let closings = Close::ALL.iter().map(|close| {
        json!({"code": close.code(), "name": close.name(), "comesBack": close.comes_back().words()})
    });
    let errors = Code::ALL
        .iter()
        .map(|code| (code.name().to_owned(), code.comes_back().words().into()));
    json!({
        "closings": closings.collect::<Vec<_>>(),
        "errors": errors.collect::<Map<_, _>>(),
    })
}
