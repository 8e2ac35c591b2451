//! Against a model: runs with any of a message's past revs, some of which do not know their smallest.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::archive::{Generation, SegmentId};
use crate::ids::UserId;
use crate::model::{MessageType, Timestamp};

const SEQS: u64 = 12;
const SEGMENTS: u64 = 4;

/// The revs of a run's messages, from its first on.
#[derive(Clone, Debug)]
struct ModelRun {
    run: ArchivedRun,
    revs: Vec<Rev>,
}

impl ModelRun {
    fn new(
        (segment, place): (Option<u64>, u64),
        (first, revs): (u64, Vec<u64>),
        known: bool,
    ) -> Self {
        let revs: Vec<Rev> = revs.into_iter().map(Rev).collect();
        let first_rev = revs.iter().min().copied().filter(|_| known);
        let segment = segment.and_then(|n| SegmentId::parse(&format!("{n:032x}")));
        let run = ArchivedRun {
            first_seq: Seq(first),
            last_seq: Seq(first + revs.len() as u64 - 1),
            generation: Generation(place % 3), // says nothing
            first_rev: first_rev.unwrap_or_default(),
            last_rev: revs.iter().max().copied().unwrap_or_default(),
            last_at: Timestamp(0),
            segment,
            offset: place,
            length: 1,
            digest: 0,
        };
        Self { run, revs }
    }

    fn rev(&self, seq: Seq) -> Option<Rev> {
        let at = seq.0.checked_sub(self.run.first_seq.0)?;
        self.revs.get(usize::try_from(at).ok()?).copied()
    }

    fn messages(&self) -> Vec<StoredMessage> {
        let seqs = (self.run.first_seq.0..).map(Seq);
        seqs.zip(&self.revs)
            .map(|(seq, rev)| message(seq, *rev))
            .collect()
    }
}

fn message(seq: Seq, rev: Rev) -> StoredMessage {
    StoredMessage {
        seq,
        rev,
        sender: UserId::new("alice").unwrap(),
        client_msg_id: None,
        body_digest: None,
        message_type: MessageType::Text,
        content: rev.to_string(),
        reply_to: None,
        attachments: None,
        reactions: None,
        metadata: None,
        edit_history: None,
        created_at: Timestamp(0),
        edited_at: None,
        deleted_at: None,
        pin: None,
        mentions: None,
    }
}

fn copies(runs: &[ModelRun]) -> Copies {
    let mut copies = Copies {
        rev: Rev(0),
        runs: runs.iter().map(|run| run.run).collect(),
    };
    copies.sort();
    copies
}

fn read(runs: &[ModelRun], part: &ColdPart) -> Result<Vec<StoredMessage>> {
    let run = runs.iter().find(|run| run.run == part.run).unwrap();
    let wanted = |message: &StoredMessage| (part.first..=part.last).contains(&message.seq);
    Ok(run.messages().into_iter().filter(wanted).collect())
}

fn newest_rev(runs: &[ModelRun], seq: Seq) -> Option<Rev> {
    runs.iter().filter_map(|run| run.rev(seq)).max()
}

/// Runs as any history of changes, archive jobs and restorations of old copies may leave them. Revs of a message are
/// `seq + SEQS * n`, so that no two messages share one.
fn any_runs() -> impl Strategy<Value = Vec<ModelRun>> {
    let one = (
        0..SEGMENTS,
        1..=SEQS,
        prop::collection::vec(0u64..4, 1..=SEQS as usize),
        any::<bool>(),
    );
    prop::collection::vec(one, 0..8).prop_map(|all| {
        let run = |(place, (segment, first, times, known)): (usize, (u64, u64, Vec<u64>, bool))| {
            let seqs = first..=SEQS;
            let revs = seqs
                .zip(times)
                .map(|(seq, time)| seq + SEQS * time)
                .collect();
            ModelRun::new((Some(segment), place as u64), (first, revs), known)
        };
        all.into_iter().enumerate().map(run).collect()
    })
}

fn all_seqs() -> BTreeSet<Seq> {
    (1..=SEQS).map(Seq).collect()
}

proptest! {
    #[test]
    fn the_greatest_rev_counts(runs in any_runs(), wanted in subsequence((1..=SEQS).map(Seq).collect::<Vec<_>>(), 0..=SEQS as usize)) {
        let wanted: BTreeSet<Seq> = wanted.into_iter().collect();
        let plan = copies(&runs).plan(&wanted);
        let reads = plan.parts().iter().map(|part| read(&runs, part)).collect();
        let answer = plan.newest(reads).unwrap();
        prop_assert!(answer.lost.is_empty() && answer.failure.is_none());
        for seq in wanted {
            let expected = newest_rev(&runs, seq);
            prop_assert_eq!(answer.messages.get(&seq).map(|message| message.rev), expected);
            prop_assert_eq!(plan.nowhere().contains(&seq), expected.is_none());
        }
    }

    #[test]
    fn what_cannot_be_read_never_lets_an_older_copy_through(runs in any_runs(), failing: u8, damaged: bool) {
        let plan = copies(&runs).plan(&all_seqs());
        let failure = || if damaged { Error::ArchiveDamaged("as asked".into()) } else { Error::ArchiveUnavailable };
        let parts = plan.parts();
        let reads = parts.iter().enumerate().map(|(n, part)| {
            if failing >> n & 1 == 1 { Err(failure()) } else { read(&runs, part) }
        });
        let answer = plan.newest(reads.collect()).unwrap();
        for seq in all_seqs() {
            match answer.messages.get(&seq) {
                Some(message) => {
                    prop_assert_eq!(Some(message.rev), newest_rev(&runs, seq));
                    prop_assert!(!answer.lost.contains(&seq));
                }
                None => prop_assert!(answer.lost.contains(&seq) || plan.nowhere().contains(&seq)),
            }
        }
        prop_assert_eq!(answer.failure.is_some(), failing.trailing_zeros() < parts.len() as u32);
    }

    #[test]
    fn what_was_dropped_is_dropped_whatever_else_there_is(mut runs in any_runs(), first in 1..=SEQS, last in 1..=SEQS, place in 0..8usize) {
        let revs = (first..=last.max(first)).collect();
        let dropped = ModelRun::new((None, 99), (first, revs), true);
        runs.insert(place.min(runs.len()), dropped.clone());
        let plan = copies(&runs).plan(&all_seqs());
        for seq in all_seqs() {
            prop_assert_eq!(plan.dropped().contains(&seq), dropped.run.holds(seq));
            let read = plan.parts.iter().any(|(_, seqs)| seqs.contains(&seq));
            prop_assert!(!read || !dropped.run.holds(seq));
        }
    }

    /// The usual case: what is archived again has been changed since. Each message is read from one run.
    #[test]
    fn changes_that_are_archived_again_cost_one_read(rounds in prop::collection::vec((1..=SEQS, 1..=SEQS), 0..6)) {
        let mut runs = vec![ModelRun::new((Some(0), 0), (1, (1..=SEQS).collect()), true)];
        let mut rev = SEQS;
        for (n, (first, last)) in rounds.into_iter().enumerate() {
            let changed = (first..=last).map(|_| { rev += 1; rev }).collect::<Vec<u64>>();
            if !changed.is_empty() {
                runs.push(ModelRun::new((Some(n as u64 + 1), 0), (first, changed), true));
            }
        }
        let plan = copies(&runs).plan(&all_seqs());
        let read: usize = plan.parts.iter().map(|(_, seqs)| seqs.len()).sum();
        prop_assert_eq!(read as u64, SEQS);
    }

    /// Segments are written anew one after the other, each without what is superseded.
    #[test]
    fn rewriting_loses_nothing_and_leaves_one_copy(mut runs in any_runs(), order in Just((0..SEGMENTS).collect::<Vec<_>>()).prop_shuffle()) {
        let before: HashMap<Seq, Rev> = all_seqs().into_iter().filter_map(|seq| Some((seq, newest_rev(&runs, seq)?))).collect();
        for n in order {
            let segment = SegmentId::parse(&format!("{n:032x}"));
            let (old, mut kept): (Vec<ModelRun>, Vec<ModelRun>) = runs.iter().cloned().partition(|run| run.run.segment == segment);
            let index = copies(&runs);
            for run in &old {
                let rivals = index.rivals(&run.run, &run.messages());
                let reads = rivals.parts().iter().map(|part| read(&runs, part)).collect();
                let superseded = rivals.superseded(reads).unwrap();
                let seqs = (run.run.first_seq.0..=run.run.last_seq.0).map(Seq);
                for seq in seqs.filter(|seq| !superseded.contains(seq)) {
                    prop_assert!(!index.is_surely_elsewhere(&run.run, seq));
                    let revs = vec![run.rev(seq).unwrap().0];
                    kept.push(ModelRun::new((Some(SEGMENTS + n), kept.len() as u64), (seq.0, revs), true));
                }
            }
            runs = kept;
            for (seq, rev) in &before {
                prop_assert_eq!(newest_rev(&runs, *seq), Some(*rev));
            }
        }
        prop_assert_eq!(runs.len(), before.len());
    }
}
