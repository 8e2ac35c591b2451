//! Newtypes for ids and counters, and the key functions that place users on the key space.
//!
//! A conversation id is `owner key (u64, big-endian) ‖ 64 bits`, so an id alone says which key range, and with the
//! shard map which shard, it belongs to: a key range is one contiguous stretch of every table's primary key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use twox_hash::XxHash3_64;

/// Longest user id in bytes.
pub const USER_ID_MAX_BYTES: usize = 64;

/// Largest `seq` or `rev`: both are stored as signed 64-bit integers.
pub const COUNTER_MAX: u64 = i64::MAX as u64;

/// An id that does not have the required form. The text says what is wrong, without repeating the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(pub &'static str);

/// A user, as the deployment names them: 1 to 64 bytes of UTF-8 without control characters, compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// Checks `text` and takes it as a user id.
    ///
    /// # Errors
    /// When it is empty, longer than 64 bytes, or has a control character.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        if text.is_empty() || text.len() > USER_ID_MAX_BYTES {
            return Err(IdError("a user id has 1 to 64 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(IdError("a user id has no control characters"));
        }
        Ok(Self(text))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for UserId {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A place on the u64 key space: where a user, and every conversation they own, lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(pub u64);

impl UserKey {
    /// Big-endian, so that byte order is key order. This is how keys are stored.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The key whose stored form is `bytes`; `None` unless there are exactly eight.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a user id becomes a key. It is fixed for the life of a deployment: another function places every user elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFunction {
    /// XXH3-64 of the id's bytes: an even spread, whatever the ids look like.
    #[default]
    Hashed,
    /// The id is a decimal number, and is the key itself: ranges of user numbers, as 0–100,000 on the first database.
    Numeric,
}

impl KeyFunction {
    /// The key of `user`.
    ///
    /// # Errors
    /// With [`KeyFunction::Numeric`], when the id is not a canonical decimal number below 2^64 (`7`, never `07` or `+7`:
    /// two spellings must not be two users with one key).
    pub fn key(self, user: &UserId) -> Result<UserKey, IdError> {
        match self {
            Self::Hashed => Ok(UserKey(XxHash3_64::oneshot(user.as_str().as_bytes()))),
            Self::Numeric => {
                let error = IdError(
                    "with numeric keys a user id is a decimal number below 2^64, without leading zeros",
                );
                let text = user.as_str();
                let canonical = text.bytes().all(|b| b.is_ascii_digit())
                    && (text == "0" || !text.starts_with('0'));
                if !canonical {
                    return Err(error);
                }
                text.parse().map(UserKey).map_err(|_| error)
            }
        }
    }

    /// The name used in the configuration and in the directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hashed => "hashed",
            Self::Numeric => "numeric",
        }
    }
}

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

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// As stored: a signed 64-bit integer. Values come from the database or were checked on the way in.
            #[must_use]
            pub fn as_i64(self) -> i64 {
                i64::try_from(self.0).unwrap_or(i64::MAX)
            }

            /// From its stored form.
            #[must_use]
            pub fn from_i64(value: i64) -> Self {
                Self(u64::try_from(value).unwrap_or(0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = u64::deserialize(deserializer)?;
                if value > COUNTER_MAX {
                    return Err(de::Error::custom("the number is above 2^63 - 1"));
                }
                Ok(Self(value))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.parse::<u64>() {
                    Ok(value) if value <= COUNTER_MAX && text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(value)),
                    _ => Err(IdError("a counter is a decimal number from 0 to 2^63 - 1")),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// A message's number in its conversation: 1, 2, 3 … without a hole (INV-SEQ). 0 stands before the first.
    Seq
}
counter! {
    /// A change's number in its conversation, or in a user's list; it never goes back (INV-REV).
    Rev
}
counter! {
    /// How often a key range has changed hands. A shard's fence and the map must agree on it.
    Epoch
}

counter! {
    /// Counts the databases that were a shard, one after the other: one that takes the place of a lost one, or comes back from
    /// a backup, has a greater number, so that the earlier one is known as such when it turns up again.
    Incarnation
}

impl Incarnation {
    /// That of the databases that a deployment is made with.
    pub const FIRST: Self = Self(1);
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

/// A notification's number among its user's: 1, 2, 3 …, written as text. 0 stands before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotificationId(pub u64);

impl NotificationId {
    /// No notification comes after it.
    pub const MAX: Self = Self(COUNTER_MAX);

    /// As stored: a signed 64-bit integer.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        Seq(self.0).as_i64()
    }

    /// From its stored form.
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        Self(Seq::from_i64(value).0)
    }
}

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for NotificationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = IdError("a notification id is a number from 1 to 2^63 - 1");
        if text.starts_with('0') {
            return Err(error);
        }
        let number: Seq = text.parse().map_err(|_| error)?;
        Ok(Self(number.0))
    }
}

impl Serialize for NotificationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NotificationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A shard's name in the configuration, the directory and the logs: 1 to 64 of `a-z 0-9 - _`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ShardName(String);

impl ShardName {
    /// Checks `text` and takes it as a shard name.
    ///
    /// # Errors
    /// When it is not 1 to 64 of lower-case letters, digits, `-` and `_`.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(IdError(
                "a shard name has 1 to 64 lower-case letters, digits, hyphens or underscores",
            ));
        }
        Ok(Self(text))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ShardName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    fn hashed(user: &UserId) -> (&UserId, UserKey) {
        (user, KeyFunction::Hashed.key(user).unwrap())
    }

    #[test]
    fn numeric_keys_accept_one_spelling_only() {
        let key = |text: &str| KeyFunction::Numeric.key(&user(text));
        assert_eq!(key("0").unwrap(), UserKey(0));
        assert_eq!(key("18446744073709551615").unwrap(), UserKey(u64::MAX));
        for wrong in [
            "07",
            "+7",
            "-1",
            "alice",
            "18446744073709551616",
            "1e3",
            " 1",
            "٣",
        ] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn user_ids_are_bounded_and_printable() {
        assert!(UserId::new("").is_err());
        assert!(UserId::new("a\0b").is_err());
        assert!(UserId::new("é".repeat(33)).is_err());
        assert!(UserId::new("日本語 😀").is_ok());
    }

    #[test]
    fn the_key_of_a_user_never_changes() {
        // Published values: a different hash would place every stored user on another shard.
        assert_eq!(
            hashed(&user("alice")).1,
            UserKey(XxHash3_64::oneshot(b"alice"))
        );
        assert_eq!(XxHash3_64::oneshot(b""), 0x2d06_8005_38d3_94c2); // XXH3-64 of the empty input, from its specification
    }

    proptest! {
        #[test]
        fn ids_read_back(owner: u64, low: u64, seq in 1..=COUNTER_MAX) {
            let conversation = ConversationId::new(UserKey(owner), low);
            prop_assert_eq!(conversation.owner_key(), UserKey(owner));
            prop_assert_eq!(conversation.to_string().parse::<ConversationId>().unwrap(), conversation);
            let id = MessageId { conversation, seq: Seq(seq) };
            prop_assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
        }

        #[test]
        fn conversation_ids_sort_by_owner_key(a: u64, b: u64, low_a: u64, low_b: u64) {
            prop_assume!(a < b);
            prop_assert!(ConversationId::new(UserKey(a), low_a) < ConversationId::new(UserKey(b), low_b));
        }

        #[test]
        fn direct_ids_are_symmetric_and_live_with_the_smaller_key(a in "[a-z0-9]{1,20}", b in "[a-z0-9]{1,20}") {
            let (a, b) = (user(&a), user(&b));
            let (left, right) = (hashed(&a), hashed(&b));
            let id = ConversationId::direct(left, right, 0);
            prop_assert_eq!(id, ConversationId::direct(right, left, 0));
            prop_assert_eq!(id.owner_key(), left.1.min(right.1));
            prop_assert_ne!(id, ConversationId::direct(left, right, 1));
        }

        #[test]
        fn parsing_never_panics_and_accepts_only_the_canonical_form(text in ".{0,60}") {
            if let Ok(id) = text.parse::<MessageId>() {
                prop_assert_eq!(id.to_string(), text.clone());
            }
            if let Ok(id) = text.parse::<ConversationId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
