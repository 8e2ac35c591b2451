//! JSON that is stored and answered as it came.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// JSON kept as text: checked once when it comes in, never parsed on the way out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Takes text that was JSON when it was stored.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// The JSON text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// `value` as JSON.
    ///
    /// # Panics
    /// Never for the types in this crate, whose maps have string keys.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "serialising plain data with string keys cannot fail"
        )]
        Self(serde_json::value::to_raw_value(value).expect("plain data"))
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}
