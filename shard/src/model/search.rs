//! Looking for messages.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Message, Timestamp};
use crate::ids::{ConversationId, Seq, UserId};

/// What a message may carry beside its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SearchHas {
    /// The address of a web page in the text.
    Link,
    /// A picture.
    Image,
    /// A recording.
    Voice,
    /// Another file.
    File,
}

impl SearchHas {
    /// From its name, in either case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "link" => Self::Link,
            "image" => Self::Image,
            "voice" => Self::Voice,
            "file" => Self::File,
            _ => return None,
        })
    }
}

/// What to look for, and where.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SearchRequest {
    /// Words, all of which a message has to contain, also as parts of words; `"a phrase"`; and filters: `from:USER`,
    /// `in:CONVERSATION`, `before:DAY`, `after:DAY`, `has:link|image|voice|file`. Everything else is literal. Case, accents and
    /// width do not count. At most 1,024 bytes.
    #[serde(default)]
    pub q: String,
    /// Only in this conversation; without it, and without `in:`, in all of the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<ConversationId>,
    /// Only messages of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<UserId>,
    /// Only messages from before this day or time: `2026-01-31` (in UTC), or RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Only messages from this day or time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only messages with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has: Option<SearchHas>,
    /// Most hits, 1 to 100; 20 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<u32>,
    /// From the last answer, to go on where it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A part of the answer to a search. Within a conversation the newest hits come first. Conversations come one after the other:
/// those of the caller's list by their latest activity, the latest first; those that the request names by their ids.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchPage {
    /// The messages found. There may be none although there are more further on: a request looks at so many messages at most.
    pub hits: Vec<SearchHit>,
    /// How far this request has come; absent when it has looked at no message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searched_to: Option<SearchedTo>,
    /// Everything asked for has been looked at, and nothing passed over: by this request, and by those before it whose cursors led
    /// here.
    pub complete: bool,
    /// What this request has looked at.
    pub scanned: Scanned,
    /// Stretches that could not be read just now, and were passed over; after any, `complete` stays false.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsearched: Vec<Unsearched>,
    /// Messages that were passed over because their text is encrypted. In this version no message is.
    pub encrypted_skipped: u64,
    /// Pass it to go on; absent when there is nothing more to look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A message that was found.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchHit {
    /// The message as it is now.
    pub message: Message,
    /// Where in its text the words are: `[start, end]` each, end excluded, in UTF-16 units as JavaScript counts them, in order and
    /// without overlap; at most 64. None where only filters were asked for.
    pub ranges: Vec<[u32; 2]>,
}

/// The oldest message that was looked at last: all newer ones of its conversation have been looked at, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchedTo {
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Its place there.
    pub seq: Seq,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scanned {
    /// Messages.
    pub messages: u64,
    /// Bytes of their texts.
    pub bytes: u64,
    /// Archived messages that were not read, because an index of terms says that they do not have the words.
    pub ruled_out: u64,
}

/// Messages that could not be read just now. Search for them later, in their conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unsearched {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The first of them; 1 is the beginning of the conversation.
    pub from_seq: Seq,
    /// The last of them; absent for all of the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<Seq>,
}
