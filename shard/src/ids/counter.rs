//! Counters: numbers that only grow.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::IdError;

/// Largest `seq` or `rev`: both are stored as signed 64-bit integers.
pub const COUNTER_MAX: u64 = i64::MAX as u64;

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
