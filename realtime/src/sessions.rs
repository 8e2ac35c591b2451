//! The registry of a node's sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::session::Session;

/// Into how many parts, each with a lock, the registry is divided.
pub(crate) const PARTS: usize = 64;

type Part = HashMap<u64, Arc<Session>>;

/// The sessions of a node.
#[derive(Debug)]
pub(crate) struct Sessions(Vec<Mutex<Part>>);

impl Default for Sessions {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Mutex::default()).collect())
    }
}

impl Sessions {
    fn part_of(&self, id: u64) -> MutexGuard<'_, Part> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of a random number will do"
        )]
        self.0[id as usize % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session.
    pub(crate) fn insert(&self, session: &Arc<Session>) {
        self.part_of(session.id)
            .insert(session.id, Arc::clone(session));
    }

    /// Removes a session.
    pub(crate) fn remove(&self, session: &Session) {
        self.part_of(session.id).remove(&session.id);
    }

    /// The sessions in one of the [`PARTS`].
    pub(crate) fn in_part(&self, part: usize) -> Vec<Arc<Session>> {
        let part = self.0[part].lock().unwrap_or_else(PoisonError::into_inner);
        part.values().cloned().collect()
    }

    /// All sessions, in random order: it is that of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        (0..PARTS).flat_map(|part| self.in_part(part)).collect()
    }
}
