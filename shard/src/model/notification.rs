//! What users are told apart from messages.

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use super::{RawJson, Timestamp};
use crate::ids::{NotificationId, UserId};

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

/// What another system has told a user, as a line of an import.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotificationRecord {
    /// Whom.
    pub user: UserId,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// As [`NewNotification::kind`], and so on.
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
    /// What to open.
    #[serde(default)]
    pub action_url: Option<String>,
    /// An object.
    #[serde(default)]
    pub metadata: Option<RawJson>,
    /// Whether the user has read it: true or false, or 1 or 0 as databases write it.
    #[serde(default, deserialize_with = "flag")]
    pub read: bool,
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Number(u64),
    }
    match Flag::deserialize(deserializer) {
        Ok(Flag::Bool(flag)) => Ok(flag),
        Ok(Flag::Number(number @ (0 | 1))) => Ok(number == 1),
        _ => Err(de::Error::custom("read: write true or false, 1 or 0")),
    }
}

/// Which of a user's notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotificationFilter<'a> {
    /// Only unread ones.
    pub unread: bool,
    /// Only those of this type.
    pub kind: Option<&'a str>,
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
