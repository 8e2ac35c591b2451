//! Conversations, a user's list of them, and their members.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MessageType, RawJson, Timestamp};
use crate::ids::{ConversationId, Rev, Seq, UserId};

/// What sort of conversation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConversationKind {
    /// Two members, for ever the same, or one who writes notes; one conversation per pair.
    Direct,
    /// A closed group (at most 100 members by default).
    Group,
    /// A large room (at most 100,000 members by default).
    Channel,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read, write, react, leave.
    Member,
    /// Also: rename, add and remove members, delete anybody's message.
    Admin,
    /// Also: change roles, delete the conversation.
    Owner,
}

/// A conversation to create.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewConversation {
    /// `direct` is create-or-get, with exactly one other member, or with the caller alone for notes.
    pub kind: ConversationKind,
    /// The other members; the caller is one in any case, and owns it. Notes name the caller.
    pub members: Vec<UserId>,
    /// A name, at most 255 characters; direct conversations have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// An object of at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
}

/// A change to a conversation; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConversationPatch {
    /// A new name, at most 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A new object in place of the old, at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
    /// Whether every member may pin messages, or its admins only. Not of direct conversations, where both may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_may_pin: Option<bool>,
    /// Keep it at the top of my list; shown there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// Count it, but do not alert me; shown in my list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted: Option<bool>,
}

/// A conversation as one of its members sees it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// What sort it is.
    pub kind: ConversationKind,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// As set by its admins.
    #[schema(value_type = Object)]
    pub metadata: RawJson,
    /// Whether every member may pin messages, or its admins only. In direct conversations both may.
    pub members_may_pin: bool,
    /// Who created it.
    pub created_by: UserId,
    /// When.
    pub created_at: Timestamp,
    /// The newest message's number; 0 while there is none.
    pub head_seq: Seq,
    /// The latest change.
    pub rev: Rev,
    /// How many members it has.
    pub member_count: u64,
    /// The first few members, by id.
    pub members: Vec<Member>,
    /// The newest message, shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message: Option<MessagePreview>,
    /// My role.
    pub role: Role,
    /// Up to where I have read.
    pub read_seq: Seq,
    /// Up to where my devices have received.
    pub delivered_seq: Seq,
    /// `headSeq - readSeq`: messages that were deleted before they were read count as well.
    pub unread_count: u64,
}

/// An entry of a user's conversation list.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListEntry {
    /// The conversation.
    pub id: ConversationId,
    /// What sort it is.
    pub kind: ConversationKind,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The newest message's number.
    pub head_seq: Seq,
    /// The latest change that reached the list.
    pub rev: Rev,
    /// Up to where I have read.
    pub read_seq: Seq,
    /// `headSeq - readSeq`: messages that were deleted before they were read count as well.
    pub unread_count: u64,
    /// Unread messages that mention me, without deleted ones; at most 100 are counted.
    pub unread_mentions: u64,
    /// How many members it has.
    pub member_count: u64,
    /// The ids of the first few members.
    pub members: Vec<UserId>,
    /// The newest message, shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message: Option<MessagePreview>,
    /// When it was created, or the newest message sent: the list's order.
    pub last_activity_at: Timestamp,
    /// I keep it at the top.
    pub pinned: bool,
    /// I do not want alerts.
    pub muted: bool,
    /// I am no longer a member, or it was deleted; only in `sync`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// The database of this conversation does not answer just now, so the entry shows what was last known; only of large
    /// conversations.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// The newest message of a conversation, shortened for a list.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessagePreview {
    /// Its place.
    pub seq: Seq,
    /// Who sent it.
    pub sender_id: UserId,
    /// The first 100 characters. Of a message without text, what it carries: "Photo", "Voice message 0:12", or a file's name.
    /// Empty once deleted.
    pub content: String,
    /// What it carries.
    pub message_type: MessageType,
    /// When.
    pub created_at: Timestamp,
    /// It was deleted. A message that was deleted by a version without this mark has only an empty `content`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// A page of a user's conversations.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationList {
    /// Pinned first, then the latest activity first. Of a user's large conversations the 100 that were active last when the
    /// user joined them are ordered by their latest activity; the others by their activity at that time.
    pub conversations: Vec<ListEntry>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A member of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// What they may do.
    pub role: Role,
    /// Up to where they have read.
    pub read_seq: Seq,
    /// Up to where their devices have received.
    pub delivered_seq: Seq,
    /// When they joined.
    pub joined_at: Timestamp,
    /// They left; only in `sync`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// A page of members, by id.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberList {
    /// The members.
    pub members: Vec<Member>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Members to add.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewMembers {
    /// 1 to 1,000 users; those who are members already stay as they are.
    pub members: Vec<UserId>,
    /// The role they get: `member` or `admin`.
    #[serde(default = "member_role")]
    pub role: Role,
}

fn member_role() -> Role {
    Role::Member
}

/// How much is unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnreadCount {
    /// Messages.
    pub total: u64,
    /// Conversations with at least one.
    pub conversations: u64,
    /// Unread messages that mention me.
    pub mentions: u64,
    /// There may be more: the user is in more than 100 large conversations, of which 100 are counted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// A watermark after it was moved; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Watermarks {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Up to where I have read.
    pub read_seq: Seq,
    /// Up to where my devices have received.
    pub delivered_seq: Seq,
    /// `headSeq - readSeq`: messages that were deleted before they were read count as well.
    pub unread_count: u64,
}

/// Where a conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationHead {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Its newest message.
    pub head_seq: Seq,
    /// Its latest change.
    pub rev: Rev,
}
