//! The hashes that chain records.
//!
//! Both are SHA-256 over fields, each of which follows its length in bytes, as 32 bits, big-endian. So no two lists of fields have the
//! same bytes, and whoever wants to can compute them without this program:
//!
//! | hash | fields |
//! |---|---|
//! | `digest` | `backscroll audit content 1`, `salt`, `actor`, `subject` (empty: none), `reason`, `details` |
//! | `hash` | `backscroll audit record 1`, the hash before (32 zero bytes: there is none), `number`, `at` (both 64 bits, big-endian), `action`, `digest` |
//!
//! `at` is in milliseconds since 1970. Texts are UTF-8, as stored.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};
use crate::model::Timestamp;

/// A hash of the chain. Its text form has 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditHash([u8; 32]);

impl AuditHash {
    /// What stands for the hash before the first record.
    pub(super) const NONE: Self = Self([0; 32]);

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into();
        bytes
            .map(Self)
            .map_err(|_| Error::corrupt("a hash of the audit log does not have 32 bytes"))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for AuditHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rule = || Error::invalid("hash", "64 hexadecimal digits");
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(rule());
        };
        let byte = |pair: &[u8; 2]| {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            u8::try_from(digit(0)? * 16 + digit(1)?).ok()
        };
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(rule)
    }
}

impl Serialize for AuditHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AuditHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What a record says of people and things, in the order of its digest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub(super) salt: &'a [u8],
    pub(super) actor: &'a str,
    pub(super) subject: Option<&'a str>,
    pub(super) reason: &'a str,
    pub(super) details: &'a str,
}

impl Content<'_> {
    pub(super) fn digest(&self) -> AuditHash {
        hash(&[
            b"backscroll audit content 1",
            self.salt,
            self.actor.as_bytes(),
            self.subject.unwrap_or_default().as_bytes(),
            self.reason.as_bytes(),
            self.details.as_bytes(),
        ])
    }
}

/// What is chained, in the order of its hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) action: &'a str,
    pub(super) digest: AuditHash,
}

impl Link<'_> {
    pub(super) fn hash(&self, previous: AuditHash) -> AuditHash {
        hash(&[
            b"backscroll audit record 1",
            previous.as_bytes(),
            &self.number.to_be_bytes(),
            &self.at.0.to_be_bytes(),
            self.action.as_bytes(),
            self.digest.as_bytes(),
        ])
    }
}

fn hash(fields: &[&[u8]]) -> AuditHash {
    let mut context = Context::new(&SHA256);
    for field in fields {
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX); // the longest has 64 KiB
        context.update(&length.to_be_bytes());
        context.update(field);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    AuditHash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content<'_> = Content {
        salt: &[7; 16],
        actor: "user/root",
        subject: Some("user/mallory"),
        reason: "Advertising",
        details: r#"{"kind":"ban"}"#,
    };

    /// Kept for ever: logs that were written are verified by these. Computed with `hashlib` of Python.
    #[test]
    fn hashes_are_those_of_the_documented_bytes() {
        let digest = CONTENT.digest();
        let link = Link {
            number: 1,
            at: Timestamp(1_796_054_400_000),
            action: "sanction.impose",
            digest,
        };
        assert_eq!(
            [digest.to_string(), link.hash(AuditHash::NONE).to_string()],
            [
                "4be9e17c89fcd3f87f42fc7d99148cdcd0d9baf8823696c64c7813194101b72c",
                "ccf280ba0435a12b8a29fc4caeefdca910b9819c7105a27974f471053f0ac767"
            ]
        );
        assert_eq!(digest.to_string().parse::<AuditHash>().unwrap(), digest);
        for wrong in ["", "ab", &"x".repeat(64), &"0".repeat(66)] {
            assert!(wrong.parse::<AuditHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_does_not_slip_from_one_field_into_another() {
        let shifted = Content {
            actor: "user/rootuser/",
            subject: Some("mallory"),
            ..CONTENT
        };
        assert_ne!(shifted.digest(), CONTENT.digest());
        let other_salt = Content {
            salt: &[8; 16],
            ..CONTENT
        };
        assert_ne!(other_salt.digest(), CONTENT.digest());
    }
}
