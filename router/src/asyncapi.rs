//! The AsyncAPI document: the real-time protocol's commands and events, generated from their types.
//!
//! What the types cannot say is in `realtime/PROTOCOL.md`. A test compares the document with the recorded one.

use backscroll_realtime::protocol::{
    Authenticate, Close, ConversationUpdated, DeleteMessage, Done, EditMessage, Failure, Hello,
    InConversation, MarkDelivered, MarkNotificationRead, MarkRead, MessageEvent, NotificationEvent,
    NotificationsRead, Presence, PresenceSubscribe, PresenceUpdate, React, Receipt, Reconnect,
    RefreshToken, Refreshed, Resync, SendMessage, UserTyping, Watched,
};
use backscroll_shard::model::{
    ConversationHead, Message, Notification, SyncPage, SyncRequest, UnreadCount,
    UnreadNotifications, Watermarks,
};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

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
    api.command::<InConversation, ConversationHead>("join_conversation", "Open a conversation");
    api.command::<InConversation, Done>("leave_conversation", "Close a conversation");
    api.command::<SendMessage, Message>("send_message", "Send a message");
    api.command::<EditMessage, Message>("edit_message", "Edit one's own message");
    api.command::<DeleteMessage, Message>("delete_message", "Delete a message");
    api.command::<React, Message>("react", "React to a message, or take that back");
    api.command::<InConversation, Done>("typing_start", "Begin typing");
    api.command::<InConversation, Done>("typing_stop", "Stop typing");
    api.command::<MarkRead, Watermarks>("mark_read", "Move one's read watermark");
    api.command::<MarkDelivered, Watermarks>("mark_delivered", "Move one's delivered watermark");
    api.command::<SyncRequest, SyncPage>("sync", "What changed since");
    api.command::<PresenceSubscribe, Watched>("presence_subscribe", "Watch users");
    api.command::<PresenceUpdate, Done>("presence_update", "Say what one shows");
    api.command::<Done, UnreadCount>("unread_count", "Unread messages and conversations");
    api.command::<MarkNotificationRead, Notification>(
        "mark_notification_read",
        "Say that one has read a notification",
    );
    api.command::<Done, Done>("mark_notifications_read", "The same of all of them");
    api.command::<Done, UnreadNotifications>("unread_notifications", "How many one has not read");
    api.command::<RefreshToken, Refreshed>("refresh_token", "Go on with a new token");
    api.command::<Done, Done>("ping", "Ask for a sign of life");
    api.event::<Hello<'_>>("hello", "The first event of a connection");
    api.event::<ConversationHead>("joined_conversation", "A conversation is open");
    api.event::<InConversation>("left_conversation", "A conversation is no longer one's own");
    api.event::<MessageEvent<'_>>("new_message", "A message was sent");
    api.event::<MessageEvent<'_>>("message_updated", "A message was edited, or reacted to");
    api.event::<MessageEvent<'_>>("message_deleted", "A message was deleted");
    api.event::<Receipt<'_>>("messages_read", "A member read up to a message");
    api.event::<Receipt<'_>>("messages_delivered", "A member received up to a message");
    api.event::<UserTyping<'_>>("user_typing", "A member types, or no longer does");
    api.event::<ConversationUpdated<'_>>("conversation_updated", "An entry of one's list changed");
    api.event::<Presence>(
        "user_online",
        "A watched user came, or changed their status",
    );
    api.event::<Presence>("user_offline", "A watched user went");
    api.event::<NotificationEvent<'_>>("notification", "One was sent a notification");
    api.event::<NotificationsRead>("notifications_read", "One has read notifications");
    api.event::<Resync>("resync", "What has to be loaded over REST");
    api.event::<Reconnect>("reconnect", "The server goes away");
    api.event::<Failure>("error", "A command without an acknowledgement failed");
    api.finish()
}

#[derive(Default)]
struct Api {
    schemas: Map<String, Value>,
    messages: Map<String, Value>,
    operations: Map<String, Value>,
}

impl Api {
    /// What a client sends, and is answered.
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

    /// What the server sends.
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
         `{\"ack\": n, \"error\": Failure}`.\n\n| close code | name | meaning |\n|---|---|---|\n",
    );
    for close in Close::ALL {
        let row = (close.code(), close.name(), close.meaning());
        text.push_str(&format!("| {} | `{}` | {} |\n", row.0, row.1, row.2));
    }
    text
}
