//! What the store takes and gives: conversations, members, messages, pages.
//!
//! These types are the API's types: their JSON is what REST and WebSocket clients see (camelCase, RFC 3339 times in UTC
//! with milliseconds, ids as strings), and the OpenAPI document is generated from them.

mod block;
mod caller;
mod conversation;
mod export;
mod json;
mod media;
mod message;
mod notification;
mod schema;
mod search;
mod sync;
mod time;

pub use self::block::BlockList;
pub use self::caller::Caller;
pub use self::conversation::{
    Conversation, ConversationHead, ConversationKind, ConversationList, ConversationPatch,
    ListEntry, Member, MemberList, MessagePreview, NewConversation, NewMembers, Role, UnreadCount,
    Watermarks,
};
pub use self::export::HistoryRecord;
pub(crate) use self::json::AnyObject;
pub use self::json::{RawJson, from_object};
pub use self::media::{
    Media, MediaFacts, MediaInfo, MediaKind, MediaProcessed, MediaState, MediaVariant,
    MediaVerdict, VariantKeys, VariantName,
};
pub use self::message::{
    DeliveryStatus, Edit, HistoryPage, MemberReceipt, Message, MessageEdit, MessageType,
    NewMessage, PinList, Position, ReceiptList, ReplyList, Sent, SeqRange, Thread, Tiers,
};
pub use self::notification::{
    NewNotification, Notification, NotificationFilter, NotificationList, NotificationPriority,
    NotificationRecord, UnreadNotifications,
};
pub use self::search::{
    Scanned, SearchHas, SearchHit, SearchPage, SearchRequest, SearchedTo, Unsearched,
};
pub use self::sync::{ConversationChanges, SyncPage, SyncRequest};
pub use self::time::Timestamp;
