//! The lines of an import or an export.

use serde::{Deserialize, Serialize};

use super::{DeliveryStatus, MessageType, RawJson};
use crate::ids::{Seq, UserId};

/// A message with its own time, from another system's history or from an export.
///
/// The first four fields are always written, the others only when they say something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryRecord {
    /// The conversation's name.
    #[serde(default)]
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
    /// The users that it mentions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
    /// When it was pinned, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_at: Option<i64>,
    /// Who pinned it; with `pinned_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_by: Option<UserId>,
    /// When it was edited last, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<i64>,
    /// When it was deleted, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<i64>,
    /// The other person, in an import as direct conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<UserId>,
    /// How far it had come with every other member; becomes their watermarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeliveryStatus>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_text(kind: &MessageType) -> bool {
    *kind == MessageType::Text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_record_is_written_with_its_four_fields() {
        let line = r#"{"channel":"zig","user":"pupp","at":1507466702000,"text":"how \"so\"?"}"#;
        let record: HistoryRecord = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}
