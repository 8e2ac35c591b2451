//! Reports of messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{COUNTER_MAX, IdError, Seq};

/// A report's number: 1, 2, 3 …, written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId(pub u64);

impl ReportId {
    /// No report comes after it.
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

impl fmt::Display for ReportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for ReportId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = IdError("a report id is a number from 1 to 2^63 - 1");
        if text.starts_with('0') {
            return Err(error);
        }
        let number: Seq = text.parse().map_err(|_| error)?;
        Ok(Self(number.0))
    }
}

impl Serialize for ReportId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReportId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}
