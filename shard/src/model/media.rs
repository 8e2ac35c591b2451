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
    /// It was checked and may be sent and read; smaller forms of the picture are being made.
    Processing,
    /// It was checked and may be sent.
    Ready,
    /// It was checked and may be sent and read, but the picture could not be decoded: it has no smaller forms.
    Failed,
    /// It was checked and refused; upload another.
    Rejected,
    /// It is being deleted; nobody sees it any more.
    #[serde(skip)]
    Removed,
}

impl MediaState {
    /// Whether its content was checked and accepted: it may be sent, and read.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Processing | Self::Ready | Self::Failed)
    }
}

/// A smaller form of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VariantName {
    /// For lists and messages: at most 320 pixels wide and high.
    Small,
    /// For a screen: at most 1280 pixels wide and high.
    Large,
}

/// What is known of a smaller form of a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MediaVariant {
    /// Which it is.
    pub variant: VariantName,
    /// Its type: `image/jpeg`, or `image/webp` of a picture that can be seen through.
    pub content_type: String,
    /// Its width in pixels.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The keys that the smaller forms of a picture have, or will have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantKeys {
    /// Of the small form.
    pub small: String,
    /// Of the large form.
    pub large: String,
}

impl VariantKeys {
    /// The key of this form.
    #[must_use]
    pub fn of(&self, variant: VariantName) -> &str {
        match variant {
            VariantName::Small => &self.small,
            VariantName::Large => &self.large,
        }
    }
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
    /// The keys of its smaller forms, if it is a picture.
    pub variant_keys: Option<VariantKeys>,
    /// The smaller forms that there are.
    pub variants: Vec<MediaVariant>,
    /// Until when somebody works on its smaller forms, by the clock of the shard's database; or when somebody is to.
    pub process_at: Option<Timestamp>,
    /// Why it was rejected, or has failed.
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
    /// Why it was rejected: `size_mismatch`, `checksum_mismatch`, `type_mismatch`, `too_many_pixels`, `too_many_frames`,
    /// `too_long`, `damaged`, `infected`, `not_scanned`; or why it has failed: `damaged`, `unsupported`, `out_of_memory`, `timed_out`, `crashed`.
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
    /// The smaller forms of a picture, the smallest first. One that would not be smaller than the picture is not made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub variants: Vec<MediaVariant>,
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
            variants: media.variants,
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
        /// The keys that its smaller forms are to have; `None` when none are to be made.
        variant_keys: Option<VariantKeys>,
    },
    /// It may not; this is why.
    Rejected(&'static str),
}

/// What came of processing a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaProcessed {
    /// Its smaller forms are there, under their keys.
    Ready {
        /// What to show until the picture is loaded: a ThumbHash in Base64.
        placeholder: String,
        /// Those that there are, the smallest first.
        variants: Vec<MediaVariant>,
    },
    /// It could not be decoded; this is why.
    Failed(&'static str),
}
