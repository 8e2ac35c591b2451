//! Events of the deployment's own back end, which clients receive beside those of the protocol.
//!
//! They are in no log: a session that is connected receives one at most once, and a user without a session never does. What has to
//! arrive is a notification or a message instead. Their names are never those of the protocol or of its client libraries, so that no
//! back end can imitate what the store says.

use std::fmt;

use backscroll_shard::error::Error;
use backscroll_shard::model::RawJson;
use serde::{Deserialize, Serialize};

use crate::protocol::commands::CommandName;
use crate::protocol::events::EventName;

/// Longest name, in bytes.
const NAME_MAX: usize = 64;
/// Most bytes of data, as JSON text.
const DATA_MAX: usize = 16 << 10;
/// Names that client libraries keep to themselves.
const OF_LIBRARIES: [&str; 9] = [
    "close",
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "message",
    "newListener",
    "open",
    "removeListener",
];

/// The name of such an event: 1 to 64 letters, digits and `_ - . : /`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct CustomName(String);

impl CustomName {
    /// # Errors
    /// [`Error::Invalid`] about the field `event`: another form, or a name that clients know already.
    pub fn new(name: String) -> Result<Self, Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(fits) {
            let form = format!("1 to {NAME_MAX} letters, digits and `_ - . : /`");
            return Err(Error::invalid("event", form));
        }
        let is_known = EventName::parse(&name).is_some()
            || CommandName::parse(&name).is_some()
            || OF_LIBRARIES.contains(&&*name);
        if is_known {
            let remedy = "a name that neither the protocol nor its client libraries have";
            return Err(Error::invalid("event", remedy));
        }
        Ok(Self(name))
    }

    /// As clients receive it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CustomName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl fmt::Display for CustomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event of the deployment's own back end.
#[derive(Clone, Debug)]
pub struct CustomEvent {
    pub(crate) name: CustomName,
    pub(crate) data: RawJson,
}

impl CustomEvent {
    /// # Errors
    /// [`Error::Invalid`]: more than 16 KiB of data, or a name as [`CustomName::new`] refuses it.
    pub fn new(name: String, data: RawJson) -> Result<Self, Error> {
        if data.get().len() > DATA_MAX {
            let form = format!("at most {DATA_MAX} bytes of JSON");
            return Err(Error::invalid("data", form));
        }
        let name = CustomName::new(name)?;
        Ok(Self { name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_back_end_s_own() {
        for name in [
            "offer",
            "order.paid",
            "cart:changed",
            "v1/price-list",
            "A_1",
        ] {
            assert!(CustomName::new(name.into()).is_ok(), "{name}");
        }
        let long = "x".repeat(NAME_MAX + 1);
        let known = [
            "new_message",
            "hello",
            "error",
            "send_message",
            "disconnect",
        ];
        for name in ["", "two words", "a\"b", "ü", &long]
            .into_iter()
            .chain(known)
        {
            assert!(CustomName::new(name.into()).is_err(), "{name}");
        }
    }

    #[test]
    fn data_is_bounded() {
        let of = |bytes: usize| RawJson::parse(format!("\"{}\"", "x".repeat(bytes - 2))).unwrap();
        let event = |bytes| CustomEvent::new("offer".into(), of(bytes));
        assert!(event(DATA_MAX).is_ok() && event(DATA_MAX + 1).is_err());
    }
}
