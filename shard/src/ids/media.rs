//! Files of conversations.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ConversationId, IdError, UserKey};

/// A file of a conversation: the key of the conversation's owner followed by 64 bits, so that it routes by itself. Text form:
/// 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaId([u8; 16]);

impl MediaId {
    /// The id of a file of `conversation`.
    #[must_use]
    pub fn new(conversation: ConversationId, low: u64) -> Self {
        let mut bytes = *conversation.as_bytes();
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }

    /// The key that routes this file.
    #[must_use]
    pub fn owner_key(&self) -> UserKey {
        let mut key = [0; 8];
        key.copy_from_slice(&self.0[..8]);
        UserKey(u64::from_be_bytes(key))
    }

    /// The id whose stored form is `bytes`; `None` unless there are exactly sixteen.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl AsRef<[u8]> for MediaId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MediaId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = IdError("a media id is 32 lower-case hexadecimal digits");
        // The same text as a conversation's.
        let id: ConversationId = text.parse().map_err(|_| error)?;
        Ok(Self(*id.as_bytes()))
    }
}

impl Serialize for MediaId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MediaId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}
