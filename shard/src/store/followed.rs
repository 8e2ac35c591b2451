//! Large conversations in users' lists as they were last read: what a list shows while a conversation's shard does not answer.
//!
//! The list entry of a conversation above `relay.max_members` holds what the conversation was when its user joined; the rest is
//! read from the conversation's shard with each page. Without this, an entry would fall back to the first message and to
//! another place in the list for as long as the shard is away. It is of this process and not exact, so an entry that comes
//! from it says that it is stale. A crash loses it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::ids::{ConversationId, UserId};
use crate::list::Entry;
use crate::standing::Standing;

/// Most entries of each of two generations; the older one is forgotten when the newer one is full (INV-BOUND).
const GENERATION: usize = 20_000;

type Standings = HashMap<(ConversationId, UserId), Standing>;

/// What was last read of users' large conversations.
#[derive(Debug, Default)]
pub(super) struct Followed(Mutex<(Standings, Standings)>);

impl Followed {
    /// Takes what was read into an entry of its user's list, and remembers it.
    pub(super) fn read(&self, entry: &mut Entry, standing: Standing) {
        entry.follow(&standing);
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (newer, older) = &mut *generations;
        if newer.len() >= GENERATION {
            *older = std::mem::take(newer);
        }
        newer.insert((standing.id, standing.user.clone()), standing);
    }

    /// Makes an entry of `user`'s list what was last read, if anything was, and marks it stale.
    pub(super) fn recall(&self, user: &UserId, entry: &mut Entry) {
        entry.stale = true;
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (newer, older) = &*generations;
        let key = (entry.conversation, user.clone());
        let Some(known) = newer.get(&key).or_else(|| older.get(&key)) else {
            return;
        };
        if known.access.rev < entry.conversation_rev {
            return; // the entry is of a later time: its user has left and joined again
        }
        let read_seq = known.read_seq.max(entry.read_seq);
        entry.follow(known);
        entry.read_seq = read_seq;
    }
}
