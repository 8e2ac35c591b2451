//! The data of commands, answers and events.
//!
//! The doc comments become descriptions of the AsyncAPI document and of the TypeScript types.

use std::collections::BTreeMap;

use backscroll_shard::ids::{ConversationId, MessageId, NotificationId, Rev, Seq, UserId};
use backscroll_shard::model::{
    ConversationHead, ListEntry, Message, MessageType, NewMessage, Notification, RawJson, Timestamp,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::bus::Status;

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{code}: {message}")]
pub struct Failure {
    /// What went wrong, for programs: a code of REST's problems.
    pub code: &'static str,
    /// What happened this time, in words that may change.
    pub message: String,
    /// When the same command may succeed, in milliseconds from now. Absent when it has to change first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// The command breaks a rule; `message` says which and what to do.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: "invalid_request",
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// A bound is reached; `message` says which and what to do.
    #[must_use]
    pub fn limit_reached(message: impl Into<String>) -> Self {
        Self {
            code: "limit_reached",
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// Too many commands at once.
    #[must_use]
    pub fn rate_limited(retry_after_ms: u64) -> Self {
        Self {
            code: "rate_limited",
            message: "too many commands at once; slow down".to_owned(),
            retry_after_ms: Some(retry_after_ms),
        }
    }
}

/// What a client remembers of the connection it lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resume {
    /// The last cursor it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Open conversations, each with the greatest rev it has.
    #[schema(value_type = BTreeMap<String, Rev>)]
    pub conversations: BTreeMap<ConversationId, Rev>,
}

/// `authenticate`: the first frame, where no header gave the token.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Authenticate {
    /// The token.
    pub token: String,
    /// What was missed is wanted.
    #[serde(default)]
    pub resume: Option<Resume>,
}

/// Names a conversation.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InConversation {
    /// The conversation.
    pub conversation_id: ConversationId,
}

/// `send_message`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SendMessage {
    /// Where to.
    pub conversation_id: ConversationId,
    /// The text.
    pub content: String,
    /// What it carries.
    #[serde(default)]
    pub message_type: MessageType,
    /// The sender's own id for it.
    #[serde(default)]
    pub client_msg_id: Option<String>,
    /// The message it answers.
    #[serde(default)]
    pub reply_to: Option<MessageId>,
    /// At most 10 objects, 8 KiB together.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub attachments: Option<RawJson>,
    /// An object of at most 4 KiB.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
}

impl SendMessage {
    /// Where to, and what.
    pub(crate) fn into_message(self) -> (ConversationId, NewMessage) {
        let message = NewMessage {
            content: self.content,
            message_type: self.message_type,
            client_msg_id: self.client_msg_id,
            reply_to: self.reply_to,
            attachments: self.attachments,
            metadata: self.metadata,
        };
        (self.conversation_id, message)
    }
}

/// `edit_message`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EditMessage {
    /// Which.
    pub message_id: MessageId,
    /// The new text.
    pub content: String,
}

/// `delete_message`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeleteMessage {
    /// Which.
    pub message_id: MessageId,
}

/// `react`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct React {
    /// To which message.
    pub message_id: MessageId,
    /// With what.
    pub emoji: String,
    /// Take it back.
    #[serde(default)]
    pub remove: bool,
}

/// `mark_read`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarkRead {
    /// Where.
    pub conversation_id: ConversationId,
    /// Up to which message; without it and without ids, the newest.
    #[serde(default)]
    pub seq: Option<Seq>,
    /// Messages that were read: everything up to the newest of them.
    #[serde(default)]
    pub message_ids: Option<Vec<MessageId>>,
}

/// `mark_delivered`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarkDelivered {
    /// Where.
    pub conversation_id: ConversationId,
    /// Up to which message; without it, the newest.
    #[serde(default)]
    pub seq: Option<Seq>,
}

/// `mark_notification_read`.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarkNotificationRead {
    /// Which.
    pub notification_id: NotificationId,
}

/// `presence_subscribe`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceSubscribe {
    /// Whom to watch, in place of those watched before.
    pub user_ids: Vec<UserId>,
}

/// `presence_update`.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
pub struct PresenceUpdate {
    /// What to show.
    pub status: Status,
}

/// `refresh_token`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct RefreshToken {
    /// A new token of the same user.
    pub token: String,
}

/// An answer, or a command, without data.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Done {}

/// Data that comes with a command which takes none is ignored, whatever it is.
impl<'de> Deserialize<'de> for Done {
    fn deserialize<D: Deserializer<'de>>(data: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(data)?;
        Ok(Self {})
    }
}

/// What `presence_subscribe` answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Watched {
    /// Of each user: whether they are online, and since when they are not.
    pub users: Vec<Presence>,
}

/// What `refresh_token` answers.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refreshed {
    /// When the new token ends.
    pub expires_at: Timestamp,
}

/// `reconnect`: connect again after a while.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reconnect {
    /// After how many milliseconds.
    pub after_ms: u64,
}

/// The first event of a connection.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hello<'a> {
    /// This connection, for logs.
    pub session_id: &'a str,
    /// Who the token says one is.
    pub user_id: &'a UserId,
    /// How often the server asks for a sign of life.
    pub heartbeat_interval_ms: u64,
    /// When the token ends.
    pub expires_at: Timestamp,
    /// Where the conversation list stands: what changes after it is told. Absent when that could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Whether everything that was missed follows. False too when nothing was asked for.
    pub recovered: bool,
    /// What this connection may do.
    pub limits: SessionLimits,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionLimits {
    /// Longest frame.
    pub frame_bytes: usize,
    /// Most open conversations.
    pub joined_conversations: usize,
    /// Most watched users.
    pub presence_users: usize,
    /// Commands a second; 0 for no limit.
    pub commands_per_second: u32,
}

/// `new_message`, `message_updated`, `message_deleted`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageEvent<'a> {
    /// Where.
    pub conversation_id: ConversationId,
    /// As it is now.
    pub message: &'a Message,
}

/// `messages_read`, `messages_delivered`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt<'a> {
    /// Where.
    pub conversation_id: ConversationId,
    /// Up to which message.
    pub seq: Seq,
    /// Those newly so, at most the last 100.
    pub message_ids: Vec<MessageId>,
    /// Who read, or received.
    pub read_by: &'a UserId,
}

/// `user_typing`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserTyping<'a> {
    /// Where.
    pub conversation_id: ConversationId,
    /// Who.
    pub user_id: &'a UserId,
    /// Whether they began, or stopped.
    pub is_typing: bool,
}

/// `conversation_updated`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConversationUpdated<'a> {
    /// The list entry as it is now.
    pub conversation: &'a ListEntry,
    /// The cursor after it.
    pub cursor: String,
}

/// `notification`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NotificationEvent<'a> {
    /// What the user is told.
    pub notification: &'a Notification,
}

/// `notifications_read`: the user has read these, on whatever device.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct NotificationsRead {
    /// The first of them.
    pub from: NotificationId,
    /// The last of them.
    pub through: NotificationId,
}

/// A user's presence: `user_online` and `user_offline`, and what `presence_subscribe` answers a list of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// Who.
    pub user_id: UserId,
    /// What they show.
    pub status: Status,
    /// When they were connected last, when they are not and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// `resync`: load these over REST.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Resync {
    /// From where on each is told again.
    pub conversations: Vec<ConversationHead>,
    /// Whether the conversation list has to be loaded too.
    pub list: bool,
}
