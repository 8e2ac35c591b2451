//! Conversations and their messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use twox_hash::XxHash3_64;

use super::{IdError, Seq, UserId, UserKey};

/// A conversation: the owner's key followed by 64 bits. Text form: 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId([u8; 16]);

impl ConversationId {
    /// The id of a conversation owned by `owner`.
    #[must_use]
    pub fn new(owner: UserKey, low: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&owner.to_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }

    /// The id of the direct conversation of two users: the same for both, so create-or-get needs no look-up.
    ///
    /// The owner is the member with the smaller key (the smaller id on a tie). The low bits are a hash of the pair;
    /// `probe` counts up when a stranger's conversation already has that id (a forged collision), so it is never opened.
    #[must_use]
    pub fn direct(a: (&UserId, UserKey), b: (&UserId, UserKey), probe: u64) -> Self {
        let (first, second) = if (a.1, a.0) <= (b.1, b.0) {
            (a, b)
        } else {
            (b, a)
        };
        let mut pair = Vec::with_capacity(2 + first.0.as_str().len() + second.0.as_str().len());
        pair.extend_from_slice(first.0.as_str().as_bytes());
        pair.push(0); // no user id has a control character, so the pair reads back one way only
        pair.extend_from_slice(second.0.as_str().as_bytes());
        Self::new(first.1, XxHash3_64::oneshot_with_seed(probe, &pair))
    }

    /// The id that `owner` and a name they chose determine, for creations that are repeated (`scope` keeps uses apart).
    #[must_use]
    pub fn derived(owner: (&UserId, UserKey), scope: &str, name: &str) -> Self {
        let mut text = Vec::with_capacity(2 + owner.0.as_str().len() + scope.len() + name.len());
        for part in [scope, owner.0.as_str(), name] {
            text.extend_from_slice(part.as_bytes());
            text.push(0);
        }
        Self::new(owner.1, XxHash3_64::oneshot(&text))
    }

    /// The key that routes this conversation.
    #[must_use]
    pub fn owner_key(&self) -> UserKey {
        let mut key = [0; 8];
        key.copy_from_slice(&self.0[..8]);
        UserKey(u64::from_be_bytes(key))
    }

    /// The stored form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The id whose stored form is `bytes`; `None` unless there are exactly sixteen.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl AsRef<[u8]> for ConversationId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ConversationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let canonical =
            text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let error = IdError("a conversation id is 32 lower-case hexadecimal digits");
        if !canonical {
            return Err(error);
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| error)?;
        Ok(Self(value.to_be_bytes()))
    }
}

impl Serialize for ConversationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConversationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A message: `<conversationId>-<seq>`, which routes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The conversation it belongs to.
    pub conversation: ConversationId,
    /// Its place there, from 1.
    pub seq: Seq,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.conversation, self.seq)
    }
}

impl FromStr for MessageId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = IdError(
            "a message id is a conversation id, a hyphen, and a sequence number from 1 to 2^63 - 1",
        );
        let (conversation, seq) = text.split_once('-').ok_or(error.clone())?;
        let conversation = conversation.parse().map_err(|_| error.clone())?;
        let canonical = !seq.starts_with('0');
        let seq: Seq = seq.parse().map_err(|_| error.clone())?;
        if !canonical {
            return Err(error);
        }
        Ok(Self { conversation, seq })
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}
