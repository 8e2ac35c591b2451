//! Search: which messages contain these words, exactly, out of both tiers.
//!
//! A search looks at messages, the newest first, as a reader of the conversation would: stretches are read by
//! [`crate::stretch`], hot rows and archived copies alike, each after the caller's membership was asked
//! ([`crate::history::access`], INV-MEMBER, INV-TIER, INV-COPY). So edits, deletions, erasures, archive runs, restores and moves need
//! nothing of their own here: what a page shows is what is found. The archive has an index of terms, by which a search passes over
//! messages that cannot be hits; it never decides what is one.
//!
//! A request is bounded in messages, bytes and time (INV-BOUND), and says how far it has come; its cursor is where the next one goes
//! on. The cursor grants nothing: memberships are asked for every stretch. What cannot be read is named in the answer, never left
//! out in silence. Counts are of the caller's own conversations only, so they tell nothing of others.
//!
//! | module | what it holds |
//! |---|---|
//! | [`fold`] | texts as they are compared |
//! | [`query`] | what a user types, and what it asks for |
//! | [`terms`] | the parts of texts that an index of the archive has |
//! | [`candidates`] | which messages of the archive are passed over |
//! | [`find`] | whether a message is looked for, and where in its text |
//! | [`place`] | the order of the walk, and cursors |
//! | [`walk`] | the messages of one conversation, stretch by stretch |
//! | [`turns`] | who may search now |
//! | [`settings`] | the bounds |
//!
//! A crash leaves nothing behind.

mod candidates;
mod find;
mod fold;
mod place;
mod query;
mod settings;
pub mod terms;
mod turns;
mod walk;

pub(crate) use self::candidates::{Candidates, Next};
pub(crate) use self::place::{Place, SearchCursor};
pub(crate) use self::query::Query;
pub use self::settings::SearchSettings;
pub(crate) use self::turns::SearchTurns;
pub(crate) use self::walk::{Budget, Found, HitRoom, Seen, look, read};

/// Most hits of one answer.
pub const HITS_MAX: u32 = 100;
/// Hits of one answer unless the request says.
pub const HITS: u32 = 20;
