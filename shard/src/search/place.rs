//! The order in which conversations are searched, and the cursor that says how far a search has come.
//!
//! All of a user's conversations are searched by their latest activity, the latest first. A conversation that gets a message while
//! the search goes on, over several requests, would move to the front, and be left out. So the search keeps the order of its
//! beginning: it remembers the latest activity of all then, and conversations with a later one stand where their newest message
//! until then puts them. Conversations that a request names are in the order of their ids, the greatest first.

use crate::error::{Error, Result};
use crate::ids::{ConversationId, Seq};
use crate::model::Timestamp;

/// Where a conversation stands in the order of a search; the greatest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its latest activity when the search began; 0 for a conversation that the request names.
    pub(crate) last_at: Timestamp,
    /// The conversation.
    pub(crate) conversation: ConversationId,
}

/// How far a search has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SearchCursor {
    /// The latest activity in the user's list when the search began.
    pub(crate) as_of: Timestamp,
    /// The conversation that is being searched. Those at greater places are done.
    pub(crate) place: Place,
    /// Messages from this one on are done; none are when it is absent.
    pub(crate) before: Option<Seq>,
    /// Nothing was passed over so far.
    pub(crate) is_whole: bool,
}

impl SearchCursor {
    /// As clients have it.
    pub(crate) fn to_text(self) -> String {
        let Place {
            last_at,
            conversation,
        } = self.place;
        let before = self.before.map_or(0, |before| before.0);
        let (as_of, is_whole) = (self.as_of.0, u8::from(self.is_whole));
        format!("{as_of}.{}.{conversation}.{before}.{is_whole}", last_at.0)
    }

    /// From what a client sends.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not one that [`SearchCursor::to_text`] made.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.split('.');
            let mut time = || Some(Timestamp(parts.next()?.parse().ok()?));
            let (as_of, last_at) = (time()?, time()?);
            let conversation = parts.next()?.parse().ok()?;
            let before = Seq(parts.next()?.parse().ok()?);
            let cursor = Self {
                as_of,
                place: Place {
                    last_at,
                    conversation,
                },
                before: (before > Seq(0)).then_some(before),
                is_whole: parts.next()? == "1",
            };
            (cursor.to_text() == text).then_some(cursor)
        };
        parse().ok_or_else(|| Error::invalid("cursor", "pass the `cursor` of the answer before"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserKey;

    #[test]
    fn cursors_are_read_as_they_were_written() {
        let place = Place {
            last_at: Timestamp(-5),
            conversation: ConversationId::new(UserKey(7), 9),
        };
        for before in [None, Some(Seq(1)), Some(Seq(i64::MAX as u64))] {
            let as_of = Timestamp(1_700_000_000_000);
            let cursor = SearchCursor {
                as_of,
                place,
                before,
                is_whole: before.is_none(),
            };
            assert_eq!(SearchCursor::parse(&cursor.to_text()).unwrap(), cursor);
        }
        for foreign in [
            "",
            "1",
            "1.2.x.3",
            "0.0.00000000000000070000000000000009.01.1",
            "0.0.00000000000000070000000000000009.1",
            "a.b.c.d.e",
        ] {
            let refused = SearchCursor::parse(foreign).unwrap_err().to_string();
            assert!(refused.starts_with("cursor: "), "{refused}");
        }
    }

    #[test]
    fn the_latest_activity_comes_first() {
        let place = |at: i64, low: u64| Place {
            last_at: Timestamp(at),
            conversation: ConversationId::new(UserKey(1), low),
        };
        let mut places = [place(1, 9), place(2, 1), place(2, 3)];
        places.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(places, [place(2, 3), place(2, 1), place(1, 9)]);
    }
}
