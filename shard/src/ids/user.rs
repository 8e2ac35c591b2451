//! Users, and the key functions that place them on the key space.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};
use twox_hash::XxHash3_64;

use super::IdError;

/// Longest user id in bytes.
pub const USER_ID_MAX_BYTES: usize = 64;

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

    /// Whether a user who is not known yet may have this id. Ids are segments of addresses, where `.` and `..` stand for
    /// other places; who has such an id already keeps it.
    ///
    /// # Errors
    /// When not.
    pub fn check_new(&self) -> Result<(), IdError> {
        match self.as_str() {
            "." | ".." => Err(IdError(
                "a user id is not `.` or `..`, which no address can name",
            )),
            _ => Ok(()),
        }
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
