//! A value of a row that is moved.

use twox_hash::XxHash3_64;

use crate::db::Value;

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Bytes(Vec<u8>),
    Text(String),
}

impl Cell {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Int(value) => Value::Int(*value),
            Self::Bytes(value) => Value::Bytes(value),
            Self::Text(value) => Value::Text(value),
        }
    }

    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Int(_) => 8,
            Self::Bytes(value) => 4 + value.len(),
            Self::Text(value) => 4 + value.len(),
        }
    }

    pub(super) fn digest(&self, into: &mut XxHash3_64) {
        use std::hash::Hasher as _;
        let mut bytes = |tag: u8, bytes: &[u8]| {
            into.write(&[tag]);
            into.write(&(bytes.len() as u64).to_be_bytes());
            into.write(bytes);
        };
        match self {
            Self::Null => bytes(0, &[]),
            Self::Int(value) => bytes(1, &value.to_be_bytes()),
            Self::Bytes(value) => bytes(2, value),
            Self::Text(value) => bytes(3, value.as_bytes()),
        }
    }
}
