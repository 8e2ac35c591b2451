//! The configuration's section `search`.

use serde::{Deserialize, Serialize};

use crate::settings::check::{Check, Problem};
use crate::settings::{Span, size};

/// How much searching there may be (INV-BOUND).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchSettings {
    /// Most searches that a node works on at once; each user has one at a time. Others wait for their turn.
    pub at_once: u32,
    /// Most messages that one request looks at; the next one goes on.
    pub messages: u32,
    /// Most bytes of texts that one request looks at.
    #[serde(with = "size")]
    pub bytes: u32,
    /// For how long one request looks. What it is reading then is finished.
    pub time: Span,
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self {
            at_once: 2,
            messages: 500_000,
            bytes: 64 << 20,
            time: Span::millis(500),
        }
    }
}

impl SearchSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("search");
        check.within("at_once", self.at_once, 1, 1000);
        check.within("messages", self.messages, 1000, 10_000_000);
        check.within("bytes", self.bytes, 1 << 20, 1 << 30);
        check.within("time", self.time, Span::millis(50), Span::secs(30));
        check.finish()
    }
}
