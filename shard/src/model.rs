//! What the store takes and gives: conversations, members, messages, pages.
//!
//! These types are the API's types: their JSON is what REST and WebSocket clients see (camelCase, RFC 3339 times in UTC
//! with milliseconds, ids as strings), and the OpenAPI document is generated from them.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use utoipa::{PartialSchema, ToSchema};

use crate::ids::{ConversationId, MessageId, NotificationId, Rev, Seq, UserId};

/// Who calls, and until when an answer is of use.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The authenticated user.
    pub user: UserId,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

impl Caller {
    /// `user`, waiting for `patience` from now.
    #[must_use]
    pub fn new(user: UserId, patience: Duration) -> Self {
        Self {
            user,
            deadline: Instant::now() + patience,
        }
    }
}

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The latest time that is accepted: 9999-12-30T21:59:59.999Z, whose year has four digits in every time zone.
    pub const MAX: Self = Self(253_402_207_199_999);

    /// The present.
    #[must_use]
    pub fn now() -> Self {
        #[cfg(feature = "steps")]
        if let Some(now) = crate::steps::now() {
            return Self(now);
        }
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// The time this long before.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            jiff::Timestamp::from_millisecond(self.0.clamp(0, Self::MAX.0)).unwrap_or_default();
        write!(f, "{time:.3}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Self(time.as_millisecond()))
    }
}

/// JSON kept as text: checked once when it comes in, never parsed on the way out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Takes text that was JSON when it was stored.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// The JSON text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// `value` as JSON.
    ///
    /// # Panics
    /// Never for the types in this crate, whose maps have string keys.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "serialising plain data with string keys cannot fail"
        )]
        Self(serde_json::value::to_raw_value(value).expect("plain data"))
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

macro_rules! string_schema {
    ($type:ty, $description:literal, $pattern:literal) => {
        impl PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($description))
                    .pattern(Some($pattern))
                    .into()
            }
        }
        impl ToSchema for $type {}
    };
}

string_schema!(
    ConversationId,
    "32 lower-case hexadecimal digits; the first 16 are its owner's key",
    "^[0-9a-f]{32}$"
);
string_schema!(
    MessageId,
    "`<conversationId>-<seq>`",
    "^[0-9a-f]{32}-[1-9][0-9]{0,18}$"
);
string_schema!(
    NotificationId,
    "A notification's number among its user's: 1, 2, 3 …",
    "^[1-9][0-9]{0,18}$"
);
string_schema!(
    UserId,
    "1 to 64 bytes of UTF-8 without control characters",
    "^[^\\x00-\\x1f\\x7f-\\x9f]{1,64}$"
);
string_schema!(
    Timestamp,
    "RFC 3339 in UTC with milliseconds",
    "^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z$"
);

macro_rules! counter_schema {
    ($type:ty, $description:literal) => {
        impl PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::Integer)
                    .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(
                        utoipa::openapi::KnownFormat::Int64,
                    )))
                    .minimum(Some(0))
                    .description(Some($description))
                    .into()
            }
        }
        impl ToSchema for $type {}
    };
}

counter_schema!(
    Seq,
    "A message's number in its conversation: 1, 2, 3 … without a hole; 0 is before the first"
);
counter_schema!(Rev, "A change's number in its conversation; it only grows");

/// What sort of conversation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConversationKind {
    /// Two members, for ever the same; one conversation per pair.
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
    /// A list of objects, as the sender gave it.
    #[schema(value_type = Vec<Object>)]
    pub attachments: RawJson,
    /// Emoji to the ids of those who reacted with it.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<String>>)]
    pub reactions: RawJson,
    /// An object, as the sender gave it.
    #[schema(value_type = Object)]
    pub metadata: RawJson,
    /// When it was stored (imported messages: when it was sent).
    pub created_at: Timestamp,
    /// When its content changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Timestamp>,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
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
    /// At most 10 objects, 8 KiB together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub attachments: Option<RawJson>,
    /// An object of at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
}

/// The outcome of a send.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The stored message.
    pub message: Message,
    /// `false` when the same client message id had stored it before.
    pub created: bool,
}

/// A conversation to create.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewConversation {
    /// `direct` is create-or-get, with exactly one other member.
    pub kind: ConversationKind,
    /// The other members; the caller is one in any case, and owns it.
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
    /// `headSeq - readSeq`.
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
    /// `headSeq - readSeq`.
    pub unread_count: u64,
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
    /// The first 100 characters.
    pub content: String,
    /// What it carries.
    pub message_type: MessageType,
    /// When.
    pub created_at: Timestamp,
}

/// A page of a user's conversations.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationList {
    /// Pinned first, then the latest activity first.
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
    /// There are newer messages.
    pub has_more_after: bool,
    /// Where the messages came from.
    pub tiers: Tiers,
    /// A part that is archived and cannot be read just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_unavailable: Option<SeqRange>,
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

/// How much is unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnreadCount {
    /// Messages.
    pub total: u64,
    /// Conversations with at least one.
    pub conversations: u64,
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
    /// `headSeq - readSeq`.
    pub unread_count: u64,
}

/// What a client has, to be told what changed since.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SyncRequest {
    /// From the last answer; without it, everything is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Conversations whose messages the client keeps, with the rev it has of each; at most 200.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, Rev>)]
    pub conversations: std::collections::BTreeMap<ConversationId, Rev>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncPage {
    /// A conversation each, in the order of the user's own changes.
    pub changes: Vec<ConversationChanges>,
    /// Pass it next time.
    pub cursor: String,
    /// There is more: call again at once with the cursor and the new revs.
    pub has_more: bool,
    /// Conversations that changed too much to be told change by change: fetch them from their head.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resync: Vec<ConversationHead>,
}

/// What changed in a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationChanges {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Its entry in my list, if that changed since the cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ListEntry>,
    /// Messages that are new or changed since the rev given, in the order of their revs.
    pub messages: Vec<Message>,
    /// Members who joined, left or changed role since the rev given.
    pub members: Vec<Member>,
    /// What the client has after applying this. Keep it for the next request.
    pub rev: Rev,
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

/// How much a notification matters. It is told to clients and decides nothing here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NotificationPriority {
    /// It can wait.
    Low,
    /// Nothing special.
    #[default]
    Normal,
    /// It should be seen soon.
    High,
    /// It should be seen at once.
    Urgent,
}

/// What a user is told apart from messages.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Its number among the user's. When the next does not follow, one was missed: read the list.
    pub id: NotificationId,
    /// What it is about, in the words of who sent it.
    #[serde(rename = "type")]
    pub kind: String,
    /// How much it matters.
    pub priority: NotificationPriority,
    /// In a few words.
    pub title: String,
    /// In more.
    pub body: String,
    /// What to open: an address, or a path of one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_url: Option<String>,
    /// An object, as it was sent.
    #[schema(value_type = Object)]
    pub metadata: RawJson,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it was read; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
}

/// A notification to send.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewNotification {
    /// To whom: 1 to 100 users.
    pub user_ids: Vec<UserId>,
    /// What it is about: 1 to 64 letters, digits and `_ - . :`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How much it matters.
    #[serde(default)]
    pub priority: NotificationPriority,
    /// 1 to 255 characters.
    pub title: String,
    /// At most 2,000 characters.
    #[serde(default)]
    pub body: String,
    /// What to open: `https://`, `http://`, or a path that begins with one slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action_url: Option<String>,
    /// An object of at most 4 KiB (a setting).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<RawJson>,
}

/// A page of a user's notifications.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationList {
    /// The newest first.
    pub notifications: Vec<Notification>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// How many notifications are unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnreadNotifications {
    /// So many.
    pub total: u64,
}

/// A message with its own time, from another system's history or from an export.
///
/// The first four fields are always written, the others only when they say something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryRecord {
    /// The conversation's name.
    pub channel: String,
    /// Who sent it.
    pub user: UserId,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// The text.
    pub text: String,
    /// What it carries, unless text.
    #[serde(default, rename = "type", skip_serializing_if = "is_text")]
    pub message_type: MessageType,
    /// The number of the message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    /// A list of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<RawJson>,
    /// Emoji to user ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reactions: Option<RawJson>,
    /// An object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RawJson>,
    /// When it was edited last, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<i64>,
    /// When it was deleted, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_text(kind: &MessageType) -> bool {
    *kind == MessageType::Text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(
            serde_json::to_string(&Timestamp(1_507_466_702_000)).unwrap(),
            "\"2017-10-08T12:45:02.000Z\""
        );
        assert_eq!(Timestamp(7).to_string(), "1970-01-01T00:00:00.007Z");
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T21:59:59.999Z");
    }

    #[test]
    fn a_plain_record_is_written_with_its_four_fields() {
        let line = r#"{"channel":"zig","user":"pupp","at":1507466702000,"text":"how \"so\"?"}"#;
        let record: HistoryRecord = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}
