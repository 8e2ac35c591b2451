//! Files of conversations.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;
use crate::ids::{ConversationId, MediaId, UserId};

/// What a file is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MediaKind)]
pub enum MediaKind {
    /// A picture, shown in the conversation: JPEG, PNG, GIF or WebP.
    Image,
    /// A recording, played in the conversation.
    Voice,
    /// Any other file, downloaded.
    File,
}

/// How far a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MediaState {
    /// It is being uploaded.
    Pending,
    /// It was checked and may be sent.
    Ready,
    /// It was checked and refused; upload another.
    Rejected,
    /// It is being deleted; nobody sees it any more.
    #[serde(skip)]
    Removed,
}

/// A file of a conversation, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Its id.
    pub id: MediaId,
    /// Where it belongs.
    pub conversation: ConversationId,
    /// The user that uploads it.
    pub uploader: UserId,
    /// How far it has come.
    pub state: MediaState,
    /// What it is used as.
    pub kind: MediaKind,
    /// Its name, for people: at most 255 characters, none of which is a control character.
    pub file_name: String,
    /// Its type: as declared until it is ready, then as its content says.
    pub content_type: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The SHA-256 that the uploader declared.
    pub sha256: Option<[u8; 32]>,
    /// The key of the object that the client puts.
    pub upload_key: String,
    /// The store's name for an upload in parts.
    pub upload_id: Option<String>,
    /// The key of the object once it is ready.
    pub object_key: Option<String>,
    /// What was found in it.
    pub facts: MediaFacts,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// When its upload was begun.
    pub created_at: Timestamp,
    /// When it is collected if no message uses it by then.
    pub expires_at: Option<Timestamp>,
}

/// What is known of a file from its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MediaFacts {
    /// A picture's width in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// A picture's height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// A recording's duration in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What to show until a picture is loaded: a ThumbHash in Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
}

/// A file of a conversation, as its members see it; and an attachment of a message, as readers get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Media)]
pub struct MediaInfo {
    /// Its id.
    pub media_id: MediaId,
    /// How far it has come.
    pub state: MediaState,
    /// Why it was rejected: `size_mismatch`, `checksum_mismatch`, `type_mismatch`, `too_many_pixels`, `too_long`,
    /// `damaged`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it is used as.
    pub kind: MediaKind,
    /// Its name, for people. Not a path: never open a file by it unchanged.
    pub file_name: String,
    /// Its type: as declared until it is ready, then as its content says.
    pub content_type: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// What was found in it.
    #[serde(flatten)]
    pub facts: MediaFacts,
    /// When it is deleted unless a message uses it by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl From<Media> for MediaInfo {
    fn from(media: Media) -> Self {
        Self {
            media_id: media.id,
            state: media.state,
            reason: media.reason,
            kind: media.kind,
            file_name: media.file_name,
            content_type: media.content_type,
            bytes: media.bytes,
            facts: media.facts,
            expires_at: media.expires_at,
        }
    }
}

/// What came of checking an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaVerdict {
    /// It may be sent.
    Ready {
        /// Where it is.
        object_key: String,
        /// Its size there.
        bytes: u64,
        /// What its content says that it is.
        content_type: String,
        /// What was found in it.
        facts: MediaFacts,
    },
    /// It may not; this is why.
    Rejected(&'static str),
}
