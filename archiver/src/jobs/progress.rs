//! How far a job is, for people who watch it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use backscroll_shard::ids::ShardName;
use serde::Serialize;

/// Where a job is: for people who watch it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The shard it works on.
    pub shard: Option<ShardName>,
    /// What it does, in a word.
    pub phase: &'static str,
    /// Conversations so far.
    pub conversations: u64,
    /// Messages read so far.
    pub messages: u64,
    /// Hot rows deleted so far.
    pub deleted: u64,
    /// Bytes written to the object store so far.
    pub bytes: u64,
    /// Why it waits.
    pub waiting: Option<String>,
}

/// A job's progress, shared with who watches it.
#[derive(Clone, Default)]
pub struct Progress(Arc<Mutex<Snapshot>>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

impl Progress {
    /// Where the job is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
