//! Which of several copies of an archived message counts (INV-COPY).
//!
//! A message that was changed after it was archived is archived again, so several runs may hold a copy of it. What counts:
//!
//! 1. a hot row, before every archived copy;
//! 2. a run that was dropped when its retention ended, before every other run: all copies of a message are of one age;
//! 3. the copy with the greatest rev. Equal revs are equal copies.
//!
//! The index knows the smallest and the greatest rev of each run. Where these decide, only that run is read, which is the
//! usual case: what is archived again has been changed since, so its revs are beyond those of the older run. Where they
//! do not decide, every run that may hold the newest copy is read, and the messages' own revs decide. No clock, no job
//! and no order of writing has a say.
//!
//! [`Copies`] and [`Plan`] are the only way from the index to archived messages: a [`ColdPart`], which is what a
//! [cold tier](crate::cold_tier::ColdTier) reads, is made here and nowhere else.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::{ArchivedRun, RUN_MAX};
use crate::db::{Connection, Value, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq};
use crate::message::{Room, StoredMessage};

/// The conversation's rev and the runs are of one moment, since one statement reads both. By the primary keys: no run is
/// longer than [`RUN_MAX`], so the rows that can overlap the stretch end within it or soon after it.
const FIND: &str = concat!(
    "SELECT c.rev, ",
    run_columns!(),
    " FROM conversations c LEFT JOIN archive_runs r {by PRIMARY} ON r.conversation_id = ? AND r.last_seq >= ? \
     AND r.last_seq < ? AND r.first_seq <= ? WHERE c.id = ?"
);
/// Likewise of one moment. By the index `archive_runs_rev`.
const CHANGED: &str = concat!(
    "SELECT c.rev, ",
    run_columns!(),
    " FROM conversations c LEFT JOIN archive_runs r {by archive_runs_rev} ON r.conversation_id = ? AND r.last_rev > ? \
     WHERE c.id = ? LIMIT ?"
);

/// Messages of one run that are to be read: from the first to the last, both in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdPart {
    run: ArchivedRun,
    first: Seq,
    last: Seq,
}

impl ColdPart {
    /// Where they are.
    #[must_use]
    pub fn run(&self) -> &ArchivedRun {
        &self.run
    }

    /// The first and the last of them.
    #[must_use]
    pub fn bounds(&self) -> (Seq, Seq) {
        (self.first, self.last)
    }
}

/// The runs that hold messages of a stretch of a conversation, as the index had them at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    rev: Rev,
    runs: Vec<ArchivedRun>,
}

impl Copies {
    /// Looks up the runs that hold any of the messages from `first` to `last`; none when there is no such conversation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find(
        connection: &mut Connection,
        conversation: ConversationId,
        (first, last): (Seq, Seq),
    ) -> Result<Self> {
        let end = Seq(last.0.saturating_add(RUN_MAX).min(i64::MAX.cast_unsigned()));
        let args = values![&conversation, first, end, last, &conversation];
        Self::fetch(connection, FIND, &args).await
    }

    /// Looks up runs with a message that was changed after `rev`, at most `limit` of them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn changed(
        connection: &mut Connection,
        conversation: ConversationId,
        rev: Rev,
        limit: usize,
    ) -> Result<Self> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let args = values![&conversation, rev, &conversation, limit];
        Self::fetch(connection, CHANGED, &args).await
    }

    async fn fetch(
        connection: &mut Connection,
        statement: &str,
        args: &[Value<'_>],
    ) -> Result<Self> {
        let mut copies = Self::default();
        for row in connection.fetch_all(statement, args).await? {
            copies.rev = Rev::from_i64(row.int(0)?);
            if row.opt_int(1)?.is_some() {
                copies
                    .runs
                    .push(ArchivedRun::read(&mut row.columns_from(1))?);
            }
        }
        copies.sort();
        Ok(copies)
    }

    /// Into one order, so that two look-ups with the same answer are equal.
    fn sort(&mut self) {
        self.runs
            .sort_unstable_by_key(|run| (run.last_seq, run.generation));
    }

    /// The conversation's rev at the moment of the look-up; 0 when there is no such conversation.
    #[must_use]
    pub fn rev(&self) -> Rev {
        self.rev
    }

    /// The runs by their last seq: for looking the index over.
    #[must_use]
    pub fn runs(&self) -> &[ArchivedRun] {
        &self.runs
    }

    /// Adds the runs of another look-up of the same conversation.
    pub(crate) fn extend(&mut self, other: Self) {
        self.runs.extend(other.runs);
        self.sort();
        self.runs.dedup();
    }

    /// What is to be read of which runs to have the copies of `wanted` that count.
    #[must_use]
    pub fn plan(&self, wanted: &BTreeSet<Seq>) -> Plan {
        let mut plan = Plan::default();
        let mut parts: BTreeMap<usize, BTreeSet<Seq>> = BTreeMap::new();
        for (first, end) in self.pieces(wanted) {
            let seqs: BTreeSet<Seq> = wanted.range(first..end).copied().collect();
            let holding = |(_, run): &(usize, &ArchivedRun)| run.holds(first);
            let holding: Vec<(usize, &ArchivedRun)> =
                self.runs.iter().enumerate().filter(holding).collect();
            if holding.is_empty() {
                plan.nowhere.extend(seqs);
            } else if holding.iter().any(|(_, run)| run.segment.is_none()) {
                plan.dropped.extend(seqs);
            } else {
                for at in newest(&holding) {
                    parts.entry(at).or_default().extend(&seqs);
                }
            }
        }
        plan.parts = self.parts(parts);
        plan
    }

    /// What is to be read to have every copy of `wanted` that is not dropped, with the messages that each part is read for:
    /// for looking the archive over.
    #[must_use]
    pub fn every_copy(&self, wanted: &BTreeSet<Seq>) -> Vec<(ColdPart, BTreeSet<Seq>)> {
        let mut parts: BTreeMap<usize, BTreeSet<Seq>> = BTreeMap::new();
        for (at, run) in self.runs.iter().enumerate() {
            let seqs = wanted.range(run.first_seq..=run.last_seq).copied();
            if run.segment.is_some() {
                parts.entry(at).or_default().extend(seqs);
            }
        }
        self.parts(parts)
    }

    /// What is to be read of other runs to know which of `messages`, those of `run`, have a copy elsewhere that counts as
    /// much.
    #[must_use]
    pub fn rivals(&self, run: &ArchivedRun, messages: &[StoredMessage]) -> Rivals {
        let mut rivals = Rivals {
            run: *run,
            revs: messages.iter().map(|it| (it.seq, it.rev)).collect(),
            superseded: BTreeSet::new(),
            parts: Vec::new(),
        };
        let mut open: BTreeMap<usize, BTreeSet<Seq>> = BTreeMap::new();
        for (seq, rev) in &rivals.revs {
            let others = self.runs.iter().enumerate();
            let others = others.filter(|(_, other)| *other != run && other.holds(*seq));
            let mut unsure = Vec::new();
            for (at, other) in others {
                if other.segment.is_none() || rivals.yields(*rev, other, other.first_rev) {
                    rivals.superseded.insert(*seq);
                } else if rivals.yields(*rev, other, other.last_rev) {
                    unsure.push(at);
                }
            }
            if !rivals.superseded.contains(seq) {
                for at in unsure {
                    open.entry(at).or_default().insert(*seq);
                }
            }
        }
        rivals.parts = self.parts(open);
        rivals
    }

    /// Whether another run has, whatever the messages' own revs are, a copy of `run`'s message that counts as much.
    #[must_use]
    pub fn is_surely_elsewhere(&self, run: &ArchivedRun, seq: Seq) -> bool {
        let counts = |other: &ArchivedRun| {
            other.segment.is_none()
                || (other.segment != run.segment && other.first_rev >= run.last_rev)
        };
        self.others(run, seq).any(counts)
    }

    /// Whether another run probably has such a copy, by what is known without reading: right unless rows were restored
    /// from an older copy than the newest.
    #[must_use]
    pub fn is_probably_elsewhere(&self, run: &ArchivedRun, seq: Seq) -> bool {
        let rank = |run: &ArchivedRun| (run.last_rev, run.generation);
        self.others(run, seq)
            .any(|other| other.segment.is_none() || rank(other) > rank(run))
    }

    fn others(&self, run: &ArchivedRun, seq: Seq) -> impl Iterator<Item = &ArchivedRun> {
        self.runs
            .iter()
            .filter(move |other| *other != run && other.holds(seq))
    }

    fn parts(&self, wanted: BTreeMap<usize, BTreeSet<Seq>>) -> Vec<(ColdPart, BTreeSet<Seq>)> {
        let part = |(at, seqs): (usize, BTreeSet<Seq>)| {
            let part = ColdPart {
                run: self.runs[at],
                first: *seqs.first()?,
                last: *seqs.last()?,
            };
            Some((part, seqs))
        };
        wanted.into_iter().filter_map(part).collect()
    }

    /// The stretches of `wanted`, end excluded, over which the same runs hold every message.
    fn pieces(&self, wanted: &BTreeSet<Seq>) -> Vec<(Seq, Seq)> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            return Vec::new();
        };
        let (start, end) = (*first, last.next());
        let bounds = self
            .runs
            .iter()
            .flat_map(|run| [run.first_seq, run.last_seq.next()]);
        let inner = bounds.filter(|bound| (start..end).contains(bound));
        let cuts: BTreeSet<Seq> = inner.chain([start, end]).collect();
        cuts.iter()
            .copied()
            .zip(cuts.iter().copied().skip(1))
            .filter(|(from, to)| wanted.range(*from..*to).next().is_some())
            .collect()
    }
}

/// The first of `parts`, in the order of `place`, whose frame does not fit in `bytes` together with those before it. It is not at the
/// place of the first of all, which is always read.
fn beyond<K: Ord>(
    mut parts: Vec<&ColdPart>,
    bytes: usize,
    place: impl Fn(&ColdPart) -> K,
) -> Option<&ColdPart> {
    parts.sort_by_key(|part| place(part));
    let nearest = place(parts.first()?);
    let mut total = 0_usize;
    parts.into_iter().find(|part| {
        total = total.saturating_add(part.run.length as usize);
        total > bytes && place(part) > nearest
    })
}

/// Which of the runs that hold a message may hold its newest copy: one, where the revs decide it.
fn newest(holding: &[(usize, &ArchivedRun)]) -> Vec<usize> {
    let Some((best, surest)) = holding
        .iter()
        .max_by_key(|(_, run)| (run.first_rev, run.last_rev, run.generation))
    else {
        return Vec::new();
    };
    // Every message of the surest run is at its first rev or beyond: at least as new as all that ends there.
    let rivals = holding
        .iter()
        .filter(|(at, run)| at != best && run.last_rev > surest.first_rev);
    rivals.map(|(at, _)| *at).chain([*best]).collect()
}

/// What is to be read to have the copies that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    parts: Vec<(ColdPart, BTreeSet<Seq>)>,
    dropped: BTreeSet<Seq>,
    nowhere: BTreeSet<Seq>,
}

impl Plan {
    /// What a cold tier has to read.
    #[must_use]
    pub fn parts(&self) -> Vec<ColdPart> {
        self.parts.iter().map(|(part, _)| *part).collect()
    }

    /// Messages that were dropped when their retention ended.
    #[must_use]
    pub fn dropped(&self) -> &BTreeSet<Seq> {
        &self.dropped
    }

    /// Messages that no run holds.
    #[must_use]
    pub fn nowhere(&self) -> &BTreeSet<Seq> {
        &self.nowhere
    }

    /// The part of `range` whose frames are, as stored, no more bytes than there is room for; at least one frame on each side of
    /// the room's anchor. Frames nearest to the anchor come first.
    pub(crate) fn within(&self, range: (Seq, Seq), room: Room) -> (Seq, Seq) {
        let (mut first, mut last) = range;
        let parts = self.parts.iter().map(|(part, _)| part);
        let (down, up): (Vec<&ColdPart>, Vec<&ColdPart>) =
            parts.partition(|part| part.first <= room.anchor);
        let last_of = |part: &ColdPart| part.last.min(room.anchor);
        if let Some(beyond) = beyond(down, room.up_to_anchor(range), |part| {
            Reverse(last_of(part))
        }) {
            first = last_of(beyond).next();
        }
        if let Some(beyond) = beyond(up, room.bytes, |part| part.first) {
            last = Seq(beyond.first.0 - 1);
        }
        (first.max(range.0), last.min(range.1))
    }

    /// The same without the runs whose messages were all changed at `rev` or before.
    pub(crate) fn changed_after(mut self, rev: Rev) -> Self {
        self.parts.retain(|(part, _)| part.run.last_rev > rev);
        self
    }

    /// The copies that count, out of what came of reading each of [`Plan::parts`], in their order.
    ///
    /// # Errors
    /// One of the reads', unless it is [`Error::ArchiveUnavailable`] or [`Error::ArchiveDamaged`]: these are in the
    /// answer, with the messages of which nothing can be shown for it.
    pub fn newest(&self, reads: Vec<Result<Vec<StoredMessage>>>) -> Result<Newest> {
        let mut answer = Newest::default();
        // Of messages with a copy that could not be read: how new that may be.
        let mut unread: BTreeMap<Seq, Rev> = BTreeMap::new();
        let mut reads = reads.into_iter();
        for (part, seqs) in &self.parts {
            let read = reads.next().unwrap_or(Err(Error::ArchiveUnavailable));
            match read.and_then(|messages| whole(part, messages)) {
                Ok(messages) => answer.add(messages, seqs),
                Err(error @ (Error::ArchiveUnavailable | Error::ArchiveDamaged(_))) => {
                    for seq in seqs {
                        let rev = unread.entry(*seq).or_default();
                        *rev = part.run.last_rev.max(*rev);
                    }
                    answer.failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        for (seq, rev) in unread {
            if answer.messages.get(&seq).is_none_or(|copy| copy.rev < rev) {
                answer.messages.remove(&seq);
                answer.lost.insert(seq);
            }
        }
        Ok(answer)
    }
}

/// The messages that were read, if they are all that were asked for.
fn whole(part: &ColdPart, messages: Vec<StoredMessage>) -> Result<Vec<StoredMessage>> {
    let asked = (part.first.0..=part.last.0).map(Seq);
    if messages.iter().map(|message| message.seq).eq(asked) {
        return Ok(messages);
    }
    Err(Error::ArchiveDamaged(format!(
        "what was read is not the messages {} to {}",
        part.first, part.last
    )))
}

/// What is to be read to know which messages of a run have a copy elsewhere that counts as much.
#[derive(Clone, Debug)]
pub struct Rivals {
    run: ArchivedRun,
    revs: Vec<(Seq, Rev)>,
    superseded: BTreeSet<Seq>,
    parts: Vec<(ColdPart, BTreeSet<Seq>)>,
}

impl Rivals {
    /// What a cold tier has to read.
    #[must_use]
    pub fn parts(&self) -> Vec<ColdPart> {
        self.parts.iter().map(|(part, _)| *part).collect()
    }

    /// Whether the run's copy at `rev` gives way to one of `other` at `other_rev`. Of equal copies one must stay: that of
    /// another segment, as only one is written anew at a time, and within a segment the earlier one.
    fn yields(&self, rev: Rev, other: &ArchivedRun, other_rev: Rev) -> bool {
        let place = |run: &ArchivedRun| (run.offset, run.first_seq, run.last_seq, run.generation);
        let stays = other.segment != self.run.segment || place(other) < place(&self.run);
        other_rev > rev || (other_rev == rev && stays)
    }

    /// The messages with such a copy, out of what came of reading each of [`Rivals::parts`], in their order. A copy that
    /// is damaged counts for nothing.
    ///
    /// # Errors
    /// One of the reads', unless it is [`Error::ArchiveDamaged`].
    pub fn superseded(mut self, reads: Vec<Result<Vec<StoredMessage>>>) -> Result<BTreeSet<Seq>> {
        let revs: BTreeMap<Seq, Rev> = self.revs.iter().copied().collect();
        let mut found = BTreeSet::new();
        let mut reads = reads.into_iter();
        for (part, seqs) in &self.parts {
            let read = reads.next().unwrap_or(Err(Error::ArchiveUnavailable));
            let messages = match read.and_then(|messages| whole(part, messages)) {
                Ok(messages) => messages,
                Err(Error::ArchiveDamaged(_)) => continue,
                Err(error) => return Err(error),
            };
            for message in messages.iter().filter(|it| seqs.contains(&it.seq)) {
                let rev = revs.get(&message.seq).copied().unwrap_or_default();
                if self.yields(rev, &part.run, message.rev) {
                    found.insert(message.seq);
                }
            }
        }
        self.superseded.append(&mut found);
        Ok(self.superseded)
    }
}

/// The copies that count.
#[derive(Debug, Default)]
pub struct Newest {
    /// Those that could be read.
    pub messages: BTreeMap<Seq, StoredMessage>,
    /// Messages of which the newest copy could not be read, or may not have been.
    pub lost: BTreeSet<Seq>,
    /// Why; for all of them alike.
    pub failure: Option<Error>,
}

impl Newest {
    fn add(&mut self, messages: Vec<StoredMessage>, wanted: &BTreeSet<Seq>) {
        for message in messages {
            if !wanted.contains(&message.seq) {
                continue;
            }
            match self.messages.entry(message.seq) {
                Entry::Vacant(place) => drop(place.insert(message)),
                Entry::Occupied(mut place) if place.get().rev < message.rev => {
                    place.insert(message);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
