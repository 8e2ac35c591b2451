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

/// The name of the rate limit of one connection's commands.
pub const COMMANDS_RULE: &str = "commands";

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{code}: {message}")]
pub struct Failure {
    /// The kind of failure, for programs: a code of REST's problems.
    pub code: &'static str,
    /// The failure in words, which may change.
    pub message: String,
    /// After how many milliseconds the same command may succeed. Absent when it has to change first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The rate limit that refused the command: its name in the server's configuration, or `commands`, the rate of one connection.
    /// Only with the code `rate_limited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'static str>,
}

impl Failure {
    /// The command breaks a rule; `message` says which and what to do.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: "invalid_request",
            message: message.into(),
            retry_after_ms: None,
            rule: None,
        }
    }

    /// A bound is reached; `message` says which and what to do.
    #[must_use]
    pub fn limit_reached(message: impl Into<String>) -> Self {
        Self {
            code: "limit_reached",
            message: message.into(),
            retry_after_ms: None,
            rule: None,
        }
    }

    /// Too many commands at once.
    #[must_use]
    pub fn rate_limited(retry_after_ms: u64) -> Self {
        Self {
            code: "rate_limited",
            message: "too many commands at once; slow down".to_owned(),
            retry_after_ms: Some(retry_after_ms),
            rule: Some(COMMANDS_RULE),
        }
    }
}

/// The position up to which a client received changes on its last connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resume {
    /// The last cursor that it received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Open conversations, each with the rev up to which the client has all changes.
    #[schema(value_type = BTreeMap<String, Rev>)]
    pub conversations: BTreeMap<ConversationId, Rev>,
}

/// `authenticate`: the first frame, where no header gave the token.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Authenticate {
    /// The token.
    pub token: String,
    /// The position from which to resume.
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
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The text.
    pub content: String,
    /// The type of the message.
    #[serde(default)]
    pub message_type: MessageType,
    /// The sender's own id for the message, 1 to 64 bytes: sending it again within 30 days (a setting) gives the same message
    /// back, not a second one.
    #[serde(default)]
    pub client_msg_id: Option<String>,
    /// The message that it replies to.
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
    /// Members that it mentions, at most 20 (a setting); `@all` for all of them.
    #[serde(default)]
    pub mentions: Vec<UserId>,
}

impl SendMessage {
    /// The conversation and the message.
    pub(crate) fn into_message(self) -> (ConversationId, NewMessage) {
        let message = NewMessage {
            content: self.content,
            message_type: self.message_type,
            client_msg_id: self.client_msg_id,
            reply_to: self.reply_to,
            attachments: self.attachments,
            metadata: self.metadata,
            mentions: self.mentions,
        };
        (self.conversation_id, message)
    }
}

/// `edit_message`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EditMessage {
    /// The message.
    pub message_id: MessageId,
    /// The new text.
    pub content: String,
    /// The members that it mentions from now on; without it they stay as they are.
    #[serde(default)]
    pub mentions: Option<Vec<UserId>>,
}

/// `delete_message`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeleteMessage {
    /// The message.
    pub message_id: MessageId,
}

/// `react`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct React {
    /// The message.
    pub message_id: MessageId,
    /// The reaction.
    pub emoji: String,
    /// Remove the reaction.
    #[serde(default)]
    pub remove: bool,
}

/// `mark_read`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarkRead {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The last message that was read. Without it and without ids: the newest.
    #[serde(default)]
    pub seq: Option<Seq>,
    /// Messages that were read. All messages up to the newest of them count as read.
    #[serde(default)]
    pub message_ids: Option<Vec<MessageId>>,
}

/// `mark_delivered`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarkDelivered {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The last message that was received. Without it: the newest.
    #[serde(default)]
    pub seq: Option<Seq>,
}

/// `mark_notification_read`.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarkNotificationRead {
    /// The notification.
    pub notification_id: NotificationId,
}

/// `presence_subscribe`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceSubscribe {
    /// The users to watch, in place of those watched before.
    pub user_ids: Vec<UserId>,
}

/// `presence_update`.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
pub struct PresenceUpdate {
    /// The status to show to watchers.
    pub status: Status,
}

/// `refresh_token`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct RefreshToken {
    /// A new token of the same user.
    pub token: String,
}

/// The data of a command or an answer that has none.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Done {}

/// Data that comes with a command which takes none is ignored, whatever it is.
impl<'de> Deserialize<'de> for Done {
    fn deserialize<D: Deserializer<'de>>(data: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(data)?;
        Ok(Self {})
    }
}

/// The answer to `presence_subscribe`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Watched {
    /// The presence of each watched user.
    pub users: Vec<Presence>,
}

/// The answer to `refresh_token`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refreshed {
    /// When the new token expires.
    pub expires_at: Timestamp,
    /// The same in milliseconds from now, for clients whose clock is wrong.
    pub expires_in_ms: u64,
}

/// `reconnect`: the client has to connect again.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reconnect {
    /// After how many milliseconds to connect.
    pub after_ms: u64,
}

/// The first event of a connection.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hello<'a> {
    /// The session, for logs.
    pub session_id: &'a str,
    /// The user that the token names.
    pub user_id: &'a UserId,
    /// How often the server pings a silent connection.
    pub heartbeat_interval_ms: u64,
    /// When the token expires.
    pub expires_at: Timestamp,
    /// The same in milliseconds from now, for clients whose clock is wrong.
    pub expires_in_ms: u64,
    /// The position of the conversation list: every later change follows as an event. Absent when it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Whether all missed changes follow. Also false when the client did not resume.
    pub recovered: bool,
    /// The bounds of the connection.
    pub limits: SessionLimits,
}

/// The bounds of a connection.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionLimits {
    /// Longest frame, in bytes.
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
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message as it is now.
    pub message: &'a Message,
}

/// `messages_read`, `messages_delivered`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt<'a> {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The last message that was read or received.
    pub seq: Seq,
    /// The messages for which that is new, at most the last 100.
    pub message_ids: Vec<MessageId>,
    /// The member who read or received them.
    pub read_by: &'a UserId,
}

/// `user_typing`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserTyping<'a> {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The member who types.
    pub user_id: &'a UserId,
    /// Whether the member types, or stopped.
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
    /// The notification.
    pub notification: &'a Notification,
}

/// `notifications_read`: the user read notifications, on any device.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct NotificationsRead {
    /// The first notification that was read.
    pub from: NotificationId,
    /// The last notification that was read.
    pub through: NotificationId,
}

/// The presence of a user: `user_online`, `user_offline`, and an entry of the answer to `presence_subscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// The user.
    pub user_id: UserId,
    /// The status of the user.
    pub status: Status,
    /// When an offline user was last connected, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// `resync`: the client has to load these over REST.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Resync {
    /// Conversations, each with the head after which changes follow again.
    pub conversations: Vec<ConversationHead>,
    /// Whether the conversation list has to be loaded too.
    pub list: bool,
}
