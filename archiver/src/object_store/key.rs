//! Names of objects.
//!
//! A key is safe as a path on every file system and needs no escaping in an address: `a-z 0-9 . _ = -`, in segments
//! between single slashes, none of which begins with a dot. Capital letters are left out because some file systems do
//! not tell them from small ones.

use std::fmt;
use std::str::FromStr;

/// Longest key in bytes: with an upload's name it still fits into one file name.
pub const KEY_MAX_BYTES: usize = 200;

/// Text that is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an object key has 1 to 200 of a-z 0-9 . _ = - in segments between single slashes, none beginning with a dot"
)]
pub struct InvalidKey;

/// An object's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks `text` and takes it as a key.
    ///
    /// # Errors
    /// When it does not have the form.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let fits = !text.is_empty() && text.len() <= KEY_MAX_BYTES;
        if fits && text.split('/').all(is_segment) {
            Ok(Self(text))
        } else {
            Err(InvalidKey)
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

/// What keys begin with: a key cut off anywhere, or nothing for all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// Checks `text` and takes it as a prefix.
    ///
    /// # Errors
    /// When no key can begin with it.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        if text.len() > KEY_MAX_BYTES {
            return Err(InvalidKey);
        }
        let (folders, last) = text
            .rsplit_once('/')
            .map_or((None, text.as_str()), |(folders, last)| {
                (Some(folders), last)
            });
        let folders_fit = folders.is_none_or(|folders| folders.split('/').all(is_segment));
        if folders_fit && (last.is_empty() || is_segment(last)) {
            Ok(Self(text))
        } else {
            Err(InvalidKey)
        }
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("everything")
        } else {
            write!(f, "{}*", self.0)
        }
    }
}

fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'=' | b'-')
    };
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_cannot_leave_their_folder_or_hide() {
        for good in [
            "a",
            "v1/0f/seg-01.jsonl.zst",
            "a=b/c_d",
            &"x".repeat(KEY_MAX_BYTES),
        ] {
            assert!(ObjectKey::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(KEY_MAX_BYTES + 1);
        for bad in [
            "", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.b", "A", "a b", "a\\b", "a+b",
            "é", "a\0", &long,
        ] {
            assert!(ObjectKey::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_beginning_of_a_key_is_a_prefix(key in "[a-z0-9_=-]{1,9}(/[a-z0-9_=-][a-z0-9._=-]{0,9}){0,3}", cut in 0usize..40) {
            let key = ObjectKey::new(key).unwrap();
            let cut = cut.min(key.as_str().len());
            prop_assert!(KeyPrefix::new(&key.as_str()[..cut]).is_ok());
        }

        #[test]
        fn nothing_else_is(text in ".{0,20}") {
            let extended = ["", "x"].map(|end| ObjectKey::new(format!("{text}{end}")).is_ok());
            prop_assert_eq!(KeyPrefix::new(text).is_ok(), extended.contains(&true));
        }
    }
}
