//! Topics, and what is told on them.

use std::fmt;
use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::RawJson;
use serde::Serialize;

/// What one listens to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What concerns a user on all their devices.
    User(UserId),
    /// What happens in a conversation that somebody has open.
    Conversation(ConversationId),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Conversation(conversation) => write!(f, "conversation:{conversation}"),
        }
    }
}

/// What a push is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PushKind {
    /// A message was sent: `{conversationId, message}`.
    NewMessage,
    /// A message was edited, or reacted to: `{conversationId, message}`.
    MessageUpdated,
    /// A message was deleted: `{conversationId, message}`, the message being empty.
    MessageDeleted,
    /// A member's devices received further: `{conversationId, seq, readBy}`.
    MessagesDelivered,
    /// A member read further, and so received as far: `{conversationId, seq, readBy}`.
    MessagesRead,
    /// The conversation's title, metadata or members changed: `{conversationId, rev}`. Unlike the others this is not
    /// what a client is told, as every member sees their own entry: whoever serves a user reads it for them.
    ConversationChanged,
}

impl PushKind {
    /// The event's name in the client protocol.
    #[must_use]
    pub fn event(self) -> &'static str {
        match self {
            Self::NewMessage => "new_message",
            Self::MessageUpdated => "message_updated",
            Self::MessageDeleted => "message_deleted",
            Self::MessagesDelivered => "messages_delivered",
            Self::MessagesRead => "messages_read",
            Self::ConversationChanged => "conversation_updated",
        }
    }
}

/// Something to tell. It is encoded once and shared by all who are told: a clone copies no text.
#[derive(Clone, Debug)]
pub struct Push {
    kind: PushKind,
    conversation: ConversationId,
    data: Arc<RawJson>,
}

impl Push {
    /// Encodes `data`, whose form is that of `kind`.
    #[must_use]
    pub fn new(kind: PushKind, conversation: ConversationId, data: &impl Serialize) -> Self {
        Self {
            kind,
            conversation,
            data: Arc::new(RawJson::of(data)),
        }
    }

    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> PushKind {
        self.kind
    }

    /// The conversation in which it happened.
    #[must_use]
    pub fn conversation(&self) -> ConversationId {
        self.conversation
    }

    /// The event's data, as JSON text.
    #[must_use]
    pub fn data(&self) -> &str {
        self.data.get()
    }
}
