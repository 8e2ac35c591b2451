//! Where in a conversation there may be messages that a query finds, by the index of terms that the archive has: so that a
//! walk passes over what is archived and cannot be a hit.
//!
//! A message is passed over only if, at one moment, no hot row had it and every archived copy of it was in a run that is ruled
//! out (INV-COPY: whichever of them counts). Everything else is read as ever: hot rows, copies that the index of terms does not know, and
//! messages that are in neither tier, whose damage has to show.

use std::time::Instant;

use super::terms::Pieces;
use crate::archive::{self, ArchivedRun};
use crate::cold_tier::ColdTier;
use crate::error::Result;
use crate::history;
use crate::ids::{ConversationId, Seq, UserId};
use crate::map::Assignment;
use crate::message;
use crate::node::Shard;

/// Most runs that are looked up at once: of about a million messages.
const RUNS: usize = 1024;
/// Most hot rows among archived messages that are looked up at once.
const HOT_ROWS: usize = 4096;
/// How many runs are fetched ahead of the walk at once.
const AHEAD: usize = 8;

/// The stretches of a conversation that may have hits, before a message and down to another.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// Each from its first to its last message; the newest first, and apart.
    stretches: Vec<(Seq, Seq)>,
    /// Nothing is known of the messages before this one.
    floor: Seq,
    /// Runs that may have hits and were not fetched ahead yet; the newest last.
    ahead: Vec<ArchivedRun>,
}

impl Candidates {
    /// Nothing is known.
    pub(crate) fn unknown() -> Self {
        Self {
            stretches: Vec::new(),
            floor: Seq(u64::MAX),
            ahead: Vec::new(),
        }
    }

    /// Looks for them before `before`.
    ///
    /// # Errors
    /// [`Error::NotMember`](crate::error::Error::NotMember), [`Error::NotOwner`](crate::error::Error::NotOwner), and when the database
    /// fails. That the archive cannot be read costs looks.
    pub(crate) async fn find(
        (shard, assignment): (&Shard, &Assignment),
        cold: &dyn ColdTier,
        (id, user): (ConversationId, &UserId),
        (before, pieces): (Seq, &Pieces),
        deadline: Instant,
    ) -> Result<Self> {
        let (mut rows, access) = history::access(shard, assignment, (id, user), deadline).await?;
        let last = Seq(before.0.saturating_sub(1)).min(access.head_seq);
        rows.begin_snapshot().await?;
        let mut runs = archive::latest_runs(&mut rows, id, last, RUNS).await?;
        let mut floor = Seq(1);
        if let Some(earliest) = runs.last().filter(|_| runs.len() >= RUNS) {
            // Others may end where this one does.
            floor = earliest.last_seq.next();
        }
        let archived_to = runs.first().map_or(Seq(0), |run| run.last_seq.min(last));
        runs.reverse();
        let range = (floor, archived_to);
        let mut hot = message::latest_seqs(&mut rows, id, range, HOT_ROWS).await?;
        rows.commit().await?;
        drop(rows); // the archive may take its time
        if let Some(lowest) = hot.last().filter(|_| hot.len() >= HOT_ROWS) {
            floor = *lowest;
        }
        hot.retain(|seq| *seq >= floor);
        let ruled_out = cold.ruled_out(&runs, pieces, deadline).await;
        let mut ruled_out = ruled_out.into_iter();
        let (passed, ahead): (Vec<ArchivedRun>, Vec<ArchivedRun>) = runs
            .iter()
            .partition(|run| ruled_out.next() == Some(true) || run.segment.is_none());
        let stretches = stretches((floor, last), &hot, &passed, &ahead);
        Ok(Self {
            stretches,
            floor,
            ahead,
        })
    }

    /// The messages that are to be read next before `before`, from the first to the last; none where nothing is known.
    pub(crate) fn next(&self, before: Seq) -> Next {
        if before <= self.floor {
            return Next::Unknown;
        }
        let next = self.stretches.iter().find(|(first, _)| *first < before);
        next.map_or(Next::PassOver(self.floor), |(first, last)| {
            Next::Read(*first, (*last).min(Seq(before.0 - 1)))
        })
    }

    /// Runs to be fetched, if the walk before `before` has come to those that were not yet.
    pub(crate) fn take_ahead(&mut self, before: Seq) -> Vec<ArchivedRun> {
        let is_close = self
            .ahead
            .last()
            .is_some_and(|run| run.last_seq.next() >= before);
        let first = match is_close {
            true => self.ahead.len().saturating_sub(AHEAD),
            false => self.ahead.len(),
        };
        self.ahead.split_off(first)
    }
}

/// What a walk does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Reads these messages, from the first to the last.
    Read(Seq, Seq),
    /// Passes over everything from this message on.
    PassOver(Seq),
    /// Nothing is known of what comes next.
    Unknown,
}

/// The stretches of `range`, the newest first, of which a message is hot, or in one of the runs `open`, or in none.
fn stretches(
    (floor, last): (Seq, Seq),
    hot: &[Seq],
    passed: &[ArchivedRun],
    open: &[ArchivedRun],
) -> Vec<(Seq, Seq)> {
    let bounds = |run: &ArchivedRun| (run.first_seq, run.last_seq);
    let held = union(passed.iter().chain(open).map(bounds).collect());
    let mut next = floor;
    let mut found: Vec<(Seq, Seq)> = hot.iter().map(|seq| (*seq, *seq)).collect();
    for (first, end) in held.into_iter().map(|(first, last)| (first, last.next())) {
        if first > next {
            found.push((next, Seq(first.0 - 1)));
        }
        next = next.max(end);
    }
    found.push((next, last));
    found.extend(open.iter().map(bounds));
    let within = found
        .into_iter()
        .map(|(first, end)| (first.max(floor), end.min(last)))
        .filter(|(first, end)| first <= end);
    let mut found = union(within.collect());
    found.reverse();
    found
}

/// The same stretches in order, with those in one that overlap or touch.
fn union(mut stretches: Vec<(Seq, Seq)>) -> Vec<(Seq, Seq)> {
    stretches.sort_unstable();
    let mut merged: Vec<(Seq, Seq)> = Vec::new();
    for (first, last) in stretches {
        match merged.last_mut() {
            Some(before) if first <= before.1.next() => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::{Generation, SegmentId};
    use crate::ids::Rev;
    use crate::model::Timestamp;

    fn run(first: u64, last: u64) -> ArchivedRun {
        ArchivedRun {
            first_seq: Seq(first),
            last_seq: Seq(last),
            generation: Generation(1),
            first_rev: Rev(1),
            last_rev: Rev(1),
            last_at: Timestamp(1),
            segment: SegmentId::parse(&format!("{first:032x}")),
            offset: 0,
            length: 1,
            digest: 1,
        }
    }

    fn some_runs() -> impl Strategy<Value = Vec<ArchivedRun>> {
        let one = (1..40_u64, 0..9_u64).prop_map(|(first, more)| run(first, first + more));
        prop::collection::vec(one, 0..5)
    }

    proptest! {
        #[test]
        fn only_what_is_ruled_out_everywhere_is_passed_over(
            passed in some_runs(), open in some_runs(), hot in prop::collection::btree_set(1..45_u64, 0..4), floor in 1..20_u64, last in 20..45_u64,
        ) {
            let hot: Vec<Seq> = hot.into_iter().map(Seq).collect();
            let found = stretches((Seq(floor), Seq(last)), &hot, &passed, &open);
            for pair in found.windows(2) {
                prop_assert!(pair[0].0.0 > pair[1].1.0 + 1, "{:?}", found);
            }
            for seq in (1..60).map(Seq) {
                let holds = |run: &ArchivedRun| run.holds(seq);
                let is_passed = passed.iter().any(holds) && !open.iter().any(holds) && !hot.contains(&seq);
                let is_within = (floor..=last).contains(&seq.0);
                let is_found = found.iter().any(|(first, end)| (*first..=*end).contains(&seq));
                prop_assert_eq!(is_found, is_within && !is_passed, "{}", seq);
            }
        }
    }

    #[test]
    fn a_walk_goes_from_stretch_to_stretch() {
        let mut candidates = Candidates {
            stretches: vec![(Seq(80), Seq(90)), (Seq(20), Seq(30))],
            floor: Seq(10),
            ahead: vec![run(20, 30), run(80, 90)],
        };
        assert_eq!(candidates.next(Seq(100)), Next::Read(Seq(80), Seq(90)));
        assert_eq!(candidates.next(Seq(85)), Next::Read(Seq(80), Seq(84)));
        assert_eq!(candidates.next(Seq(80)), Next::Read(Seq(20), Seq(30)));
        assert_eq!(candidates.next(Seq(20)), Next::PassOver(Seq(10)));
        assert_eq!(candidates.next(Seq(10)), Next::Unknown);
        assert_eq!(Candidates::unknown().next(Seq(5)), Next::Unknown);
        assert_eq!(candidates.take_ahead(Seq(100)), []);
        assert_eq!(candidates.take_ahead(Seq(91)).len(), 2);
        assert_eq!(candidates.take_ahead(Seq(31)), []);
    }
}
