//! What followers note: what came of their connections, and how far they are in each conversation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::answers::Stored;

/// What followers have noted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Notes {
    /// The greatest number that was acknowledged, for each room.
    pub heads: BTreeMap<u32, u64>,
    /// Messages acknowledged, and sends that failed, by their error.
    pub acknowledged: u64,
    /// See [`Notes::acknowledged`].
    pub failed: BTreeMap<String, u64>,
    /// Connections that were lost, by the reason.
    pub lost: BTreeMap<String, u64>,
    /// When each of those was back: its state was whole again.
    pub back: Vec<SystemTime>,
    /// Attempts to connect that were refused or failed.
    pub refused_attempts: usize,
    /// Why, with how often.
    pub refusals: BTreeMap<String, u64>,
    /// How many were told at once that nothing had to be loaded.
    pub recovered: usize,
    /// Conversations that had to be loaded, in a resume or later.
    pub resynced: usize,
    /// Lists that had to be loaded.
    pub lists: usize,
    /// New messages heard.
    pub heard: u64,
    /// Those heard before, which is harmless.
    pub heard_again: u64,
}

impl Notes {
    /// Adds what others have noted.
    pub fn add(&mut self, other: Self) {
        for (room, head) in other.heads {
            let known = self.heads.entry(room).or_default();
            *known = head.max(*known);
        }
        for (mine, theirs) in [
            (&mut self.failed, other.failed),
            (&mut self.lost, other.lost),
            (&mut self.refusals, other.refusals),
        ] {
            for (why, count) in theirs {
                *mine.entry(why).or_default() += count;
            }
        }
        self.acknowledged += other.acknowledged;
        self.back.extend(other.back);
        self.refused_attempts += other.refused_attempts;
        self.recovered += other.recovered;
        self.resynced += other.resynced;
        self.lists += other.lists;
        self.heard += other.heard;
        self.heard_again += other.heard_again;
    }
}

/// How many messages up to the head of each room are missing, and in how many logs.
#[must_use]
pub fn missing(logs: &[Log], heads: &BTreeMap<u32, u64>) -> (u64, usize) {
    let missing = |log: &Log| heads.get(&log.room).map_or(0, |head| log.missing(*head));
    let missing: Vec<u64> = logs.iter().map(missing).collect();
    let incomplete = missing.iter().filter(|count| **count > 0).count();
    (missing.iter().sum(), incomplete)
}

/// How far a follower is in one conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Log {
    /// The room.
    pub room: u32,
    pub(super) conversation: String,
    pub(super) rev: u64,
    /// Everything below is there.
    pub(super) next: u64,
    pub(super) ahead: BTreeSet<u64>,
}

impl Log {
    pub(super) fn has(&mut self, stored: &Stored) -> bool {
        self.rev = self.rev.max(stored.rev);
        let new = stored.seq >= self.next && self.ahead.insert(stored.seq);
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
        new
    }

    /// How many messages up to `head` are missing.
    #[must_use]
    pub fn missing(&self, head: u64) -> u64 {
        let ahead = self.ahead.range(..=head).count() as u64;
        (head + 1).saturating_sub(self.next).saturating_sub(ahead)
    }
}
