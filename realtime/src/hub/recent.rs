//! The recent changes of a feed, for sessions that resume: they receive what they missed without a read of the log.
//!
//! Upholds INV-BOUND: bounded in number and in bytes; the oldest changes go first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::ids::Rev;

use crate::client_event::ClientEvent;

/// Most changes.
pub(super) const CHANGES_MAX: usize = 512;
/// Most bytes of changes.
const BYTES_MAX: usize = 256 << 10;

/// A change that was delivered.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) rev: Rev,
    /// None for a change that is no event for clients.
    pub(super) event: Option<Arc<ClientEvent>>,
}

impl Change {
    fn bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.data().len())
    }
}

/// All changes of a log after `after`, up to the newest that was delivered.
#[derive(Debug)]
pub(super) struct Recent {
    changes: VecDeque<Change>,
    bytes: usize,
    after: Rev,
    touched_at: Instant,
}

impl Recent {
    /// No changes of a log that stands at `after`.
    pub(super) fn new(after: Rev) -> Self {
        Self {
            changes: VecDeque::new(),
            bytes: 0,
            after,
            touched_at: Instant::now(),
        }
    }

    /// All changes after this rev are here.
    #[cfg(test)]
    pub(super) fn after(&self) -> Rev {
        self.after
    }

    /// How many changes there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Adds the next change.
    pub(super) fn push(&mut self, change: Change) {
        self.touched_at = Instant::now();
        self.keep(change);
    }

    fn keep(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.changes.push_back(change);
        while self.changes.len() > CHANGES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.changes.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
            self.after = oldest.rev;
        }
    }

    /// The changes after `after`; none when some of them are no longer here.
    pub(super) fn since(&self, after: Rev) -> Option<impl Iterator<Item = &Change>> {
        let missed = move |change: &&Change| change.rev > after;
        (after >= self.after).then(|| self.changes.iter().filter(missed))
    }

    /// The size of the changes after `after`, in bytes; none when some of them are no longer here.
    pub(super) fn bytes_since(&self, after: Rev) -> Option<usize> {
        Some(self.since(after)?.map(Change::bytes).sum())
    }

    /// Adds older changes: all of those after `after`, up to `through` at least. `false` when that would leave a hole before
    /// the changes that are here already.
    pub(super) fn extend_back(
        &mut self,
        after: Rev,
        through: Rev,
        older: impl Iterator<Item = Change>,
    ) -> bool {
        if after >= self.after {
            return true;
        }
        if through < self.after {
            return false;
        }
        let known_after = self.after;
        let newer = std::mem::take(&mut self.changes);
        *self = Self::new(after);
        for change in older.filter(|change| change.rev > after && change.rev <= known_after) {
            self.keep(change);
        }
        for change in newer {
            self.keep(change);
        }
        true
    }

    /// Drops the changes of a log that stands at `rev` when none came for `age`: a session that resumes that late has the log
    /// read.
    pub(super) fn forget_after(&mut self, age: Duration, rev: Rev) {
        if !self.changes.is_empty() && self.touched_at.elapsed() > age {
            *self = Self::new(rev);
        }
    }
}
