//! The names of moves.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// The name of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveId([u8; 16]);

impl MoveId {
    pub(crate) fn new() -> Self {
        Self(rand::random())
    }

    /// As stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into();
        bytes
            .map(Self)
            .map_err(|_| Error::corrupt("a move's id does not have 16 bytes"))
    }
}

impl AsRef<[u8]> for MoveId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for MoveId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = u128::from_str_radix(text, 16)
            .ok()
            .filter(|_| text.len() == 32);
        let bytes = bytes.ok_or_else(|| Error::invalid("move", "32 hexadecimal digits"))?;
        Ok(Self(bytes.to_be_bytes()))
    }
}

impl Serialize for MoveId {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
