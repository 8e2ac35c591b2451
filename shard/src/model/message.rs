//! Messages, and pages of a conversation's history.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{RawJson, Timestamp};
use crate::ids::{ConversationId, MessageId, Rev, Seq, UserId};

/// What a message carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// Text.
    #[default]
    Text,
    /// A picture, in the attachments.
    Image,
    /// A recording, in the attachments.
    Voice,
    /// Another file, in the attachments.
    File,
    /// Said by the system; clients cannot send it.
    System,
}

/// How far a message has come: with every member but its sender, in direct conversations and groups. Channels stay `sent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// Stored durably.
    #[default]
    Sent,
    /// On a device of every other member.
    Delivered,
    /// Read by every other member.
    Read,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// `<conversationId>-<seq>`.
    pub id: MessageId,
    /// Where it belongs.
    pub conversation_id: ConversationId,
    /// Its place there.
    pub seq: Seq,
    /// The change that touched it last.
    pub rev: Rev,
    /// Who sent it.
    pub sender_id: UserId,
    /// The text; empty once deleted.
    pub content: String,
    /// What it carries.
    pub message_type: MessageType,
    /// The sender's own id for it, when they gave one. After a late repeat two messages may have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_msg_id: Option<String>,
    /// The message it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// A list of objects: files as the server knows them (see `Media`), others as the sender gave them.
    #[schema(value_type = Vec<Object>)]
    pub attachments: RawJson,
    /// Emoji to the ids of those who reacted with it.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<String>>)]
    pub reactions: RawJson,
    /// An object, as the sender gave it.
    #[schema(value_type = Object)]
    pub metadata: RawJson,
    /// The members that it mentions, `@all` for all of them; absent where it mentions nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
    /// How many messages answer it, deleted ones not counted; absent where none does, and in hits of a search.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(default = 0)]
    pub reply_count: u64,
    /// When the newest of them was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply_at: Option<Timestamp>,
    /// Of a reply that comes as a change (in an event, in `sync`, as the answer to its sender): what the message that it answers
    /// shows of its replies from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<Thread>,
    /// When it was stored (imported messages: when it was sent).
    pub created_at: Timestamp,
    /// When its content changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Timestamp>,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// When it was pinned; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned_at: Option<Timestamp>,
    /// Who pinned it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned_by: Option<UserId>,
    /// How far it has come.
    pub status: DeliveryStatus,
    /// Earlier contents, oldest first; only where a single message is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Edit>>)]
    pub edit_history: Option<RawJson>,
}

/// An earlier content of an edited message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Edit {
    /// The content until the edit.
    pub content: String,
    /// When the edit replaced it.
    pub replaced_at: Timestamp,
}

/// What a message shows of its replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    /// How many there are, deleted ones not counted.
    pub reply_count: u64,
    /// When the newest of them was sent; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply_at: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A message to send.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewMessage {
    /// The text; may be empty only with attachments. At most 5,000 characters (a setting), no NUL.
    pub content: String,
    /// What it carries.
    #[serde(default)]
    pub message_type: MessageType,
    /// An id of the sender's own choosing, 1 to 64 bytes: sending it again within 30 days (a setting) gives the same message
    /// back, not a second one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_msg_id: Option<String>,
    /// The message it answers, in the same conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// At most 10 objects, 8 KiB together. `{"mediaId": …}` names a file that was uploaded to this conversation and is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub attachments: Option<RawJson>,
    /// An object of at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
    /// Members that it mentions, at most 20 (a setting). `@all` mentions all members: admins may, in conversations of at most
    /// 1,000 members (a setting).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
}

/// A message's new content.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessageEdit {
    /// The text in place of the old, which is kept in the edit history.
    pub content: String,
    /// The members that it mentions from now on; without it they stay as they are.
    #[serde(default)]
    #[schema(nullable = false)]
    pub mentions: Option<Vec<UserId>>,
}

/// The outcome of a send.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The stored message.
    pub message: Message,
    /// `false` when the same client message id had stored it before.
    pub created: bool,
}

/// Which part of a conversation's history is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The newest messages.
    Latest,
    /// Those just before this one.
    Before(Seq),
    /// Those just after this one.
    After(Seq),
    /// Those on both sides of this one, and itself.
    Around(Seq),
}

/// A page of history, oldest first: a range of seqs without a hole.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPage {
    /// The messages; deleted ones are there, marked and empty.
    pub messages: Vec<Message>,
    /// The conversation's newest message.
    pub head_seq: Seq,
    /// The conversation's latest change: the page is current as of it.
    pub rev: Rev,
    /// There are older messages.
    pub has_more_before: bool,
    /// The messages before this one were dropped when their retention ended; absent where the page does not reach them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped_before: Option<Seq>,
    /// There are newer messages.
    pub has_more_after: bool,
    /// Where the messages came from.
    pub tiers: Tiers,
    /// A part that is archived and cannot be read just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_unavailable: Option<SeqRange>,
}

/// A page of a conversation's pinned messages, the newest message first.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinList {
    /// The messages.
    pub messages: Vec<Message>,
    /// The conversation's latest change when the page was begun: it has at least that.
    pub rev: Rev,
    /// Pinned messages of this page that are archived and cannot be read just now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub archive_unavailable: Vec<MessageId>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A page of the replies of a message, the oldest first; deleted ones are not among them.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplyList {
    /// The messages.
    pub messages: Vec<Message>,
    /// The conversation's latest change when the page was begun: it has at least that.
    pub rev: Rev,
    /// Replies of this page that are archived and cannot be read just now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub archive_unavailable: Vec<MessageId>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Who of the other members received and read a message, of those who were members when it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptList {
    /// Those on whose devices it is.
    pub delivered: Vec<MemberReceipt>,
    /// Those who have read it.
    pub read: Vec<MemberReceipt>,
}

/// A member who received or read a message, not later than `at` and later than `after`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberReceipt {
    /// The member.
    pub user_id: UserId,
    /// When that is known to have happened; absent where it is too long ago to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// When it had not happened yet; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Timestamp>,
}

/// How many messages of a page came from where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tiers {
    /// From the shard.
    pub hot: u64,
    /// From the archive.
    pub archive: u64,
}

/// Messages from one seq to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeqRange {
    /// The first.
    pub from_seq: Seq,
    /// The last.
    pub to_seq: Seq,
}
