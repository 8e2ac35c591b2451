//! What must go from archived objects: deleted content and ended retentions (INV-ERASE).
//!
//! Segments with something that must go are written anew without it ([`super::rewrite`]). The old objects are deleted by
//! [`super::collect`] after a short grace period, and only then the erasure has its receipt. A message is erased when no
//! copy of it is left but that of its deletion.
//!
//! Segments may be shared with a shard from which or to which a range moved: what one of them has written anew, the other one
//! writes anew, too, without the messages that are not its own.
//!
//! A crash leaves the erasure as it was put down: it is done again, which finds nothing to do. Of ended retentions it
//! leaves those segments that were not written anew yet, and the next job finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{
    self, ArchivedRun, Copies, Lease, RUN_MAX, SegmentId, SegmentState, check_lease,
};
use backscroll_shard::clock;
use backscroll_shard::db::Connection;
use backscroll_shard::ids::{COUNTER_MAX, ConversationId, Seq};
use backscroll_shard::media;
use backscroll_shard::mentions;
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use backscroll_shard::owned::OwnedTransaction;
use backscroll_shard::pins;
use backscroll_shard::threads;
use serde::Serialize;

use super::rewrite::{Rewritten, Without, runs_of};
use super::{ArchiveJobs, Order, Progress, Result, STEP, ShardOutcome, transaction};

/// Most erasures in one round, and runs looked up at once.
const PAGE: usize = 256;

/// What a job that erases did on one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EraseFigures {
    /// Deleted messages and conversations whose content the index does not name any more.
    pub erasures: u64,
    /// Erasures that wait because their conversation is under a legal hold.
    pub held: u64,
    /// Deleted messages that were not erased because the newest copy of them is not deleted: something has undone it.
    pub undone: u64,
    /// Runs of messages that were dropped because their retention ended.
    pub dropped_runs: u64,
    /// Segments that were written anew, or were not needed any more.
    pub rewritten: u64,
    /// Bytes of the new segments.
    pub bytes: u64,
}

impl ArchiveJobs {
    /// Removes deleted content from the index, and drops what is older than `archive.retain`. [`ArchiveJobs::collect`] then
    /// deletes the objects.
    ///
    /// # Errors
    /// When there is no such shard.
    pub async fn erase(
        &self,
        order: &Order,
        progress: &Progress,
    ) -> Result<Vec<ShardOutcome<EraseFigures>>> {
        let mut outcomes = Vec::new();
        for shard in self.shards(order)? {
            if !self.has_to_erase(&shard).await {
                outcomes.push(ShardOutcome::nothing(&shard));
                continue;
            }
            progress.update(|now| {
                now.shard = Some(shard.name().clone());
                now.phase = "erasing";
            });
            let work = async |lease: &Lease, figures: &mut EraseFigures| {
                self.erase_deleted(&shard, lease, figures).await?;
                self.drop_old(&shard, lease, figures).await
            };
            outcomes.push(self.job(&shard, ("erase", order), work).await);
        }
        for (outcome, shard) in outcomes.iter_mut().zip(self.shards(order)?) {
            let shared = self.left_behind(&shard).await;
            if shared.is_empty() {
                continue;
            }
            let work = async |lease: &Lease, figures: &mut EraseFigures| {
                let without = Without::default();
                for id in &shared {
                    figures.count(&self.rewrite(&shard, lease, *id, &without).await?);
                }
                Ok(())
            };
            let more = self.job(&shard, ("erase", order), work).await;
            outcome.figures.rewritten += more.figures.rewritten;
            outcome.figures.bytes += more.figures.bytes;
            outcome.error = outcome.error.take().or(more.error);
        }
        Ok(outcomes)
    }

    /// Segments that this shard names and one has written anew: another one, or this one before other conversations of the segment
    /// came to it. A range that moved has taken index rows with it, so that both shards name its segments: as long as one of them
    /// does, the objects stay, with what the other one has erased. What a shard that is away has written anew is found by a later job.
    async fn left_behind(&self, shard: &Shard) -> Vec<SegmentId> {
        let mut left = Vec::new();
        for other in self.router.shards() {
            left.extend(named_still(shard, other).await.unwrap_or_default());
        }
        left.sort_unstable();
        left.dedup();
        left
    }

    /// Whether a job would find something; one that cannot tell goes and fails with the reason.
    async fn has_to_erase(&self, shard: &Shard) -> bool {
        let pending = async {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            archive::pending_erasures(&mut connection, 1).await
        };
        self.settings.retain.is_some() || pending.await.map_or(true, |found| !found.is_empty())
    }

    async fn erase_deleted(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        figures: &mut EraseFigures,
    ) -> Result<()> {
        let mut aside: BTreeSet<(ConversationId, Seq)> = BTreeSet::new();
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let page = archive::pending_erasures(&mut connection, PAGE + aside.len()).await?;
            let mut round = Vec::new();
            for erasure in page {
                let key = (erasure.conversation_id, erasure.seq);
                if aside.contains(&key) {
                    continue;
                }
                if archive::is_held(&mut connection, erasure.conversation_id).await? {
                    aside.insert(key);
                    figures.held += 1;
                } else {
                    round.push(key);
                }
            }
            drop(connection);
            if round.is_empty() {
                return Ok(());
            }
            let undone = self.erase_round(shard, lease, &round, figures).await?;
            figures.erasures += (round.len() - undone.len()) as u64;
            figures.undone += undone.len() as u64;
            aside.extend(undone);
        }
    }

    /// Erases what it can of these, and gives the others.
    async fn erase_round(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        round: &[(ConversationId, Seq)],
        figures: &mut EraseFigures,
    ) -> Result<BTreeSet<(ConversationId, Seq)>> {
        let mut segments: BTreeSet<SegmentId> = BTreeSet::new();
        let mut without = Without::default();
        for (id, seq) in round {
            let runs = if *seq == Seq(0) {
                without.conversations.insert(*id);
                self.purge(shard, lease, *id).await?;
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                all_runs(&mut connection, *id).await?
            } else {
                without.messages.insert((*id, *seq));
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                let copies = Copies::find(&mut connection, *id, (*seq, *seq)).await?;
                copies.runs().to_vec()
            };
            segments.extend(runs.iter().filter_map(|run| run.segment));
        }
        let mut undone = BTreeSet::new();
        for segment in segments {
            let rewritten = self.rewrite(shard, lease, segment, &without).await?;
            figures.count(&rewritten);
            undone.extend(rewritten.undone);
        }
        for (conversation, seq) in &undone {
            tracing::error!(
                %conversation,
                %seq,
                "a deleted message has its content back; it is not erased"
            );
        }
        transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            for (id, seq) in round.iter().filter(|key| !undone.contains(key)) {
                archive::erasure_rewritten(connection, *id, *seq, now).await?;
            }
            Ok(())
        })
        .await?;
        Ok(undone)
    }

    /// Deletes the hot rows of a deleted conversation.
    async fn purge(&self, shard: &Shard, lease: &Lease, id: ConversationId) -> Result<()> {
        let limit = u64::from(self.settings.delete_batch);
        loop {
            let more = transaction(shard, async |connection| {
                check_lease(connection, lease).await?;
                archive::purge_rows(connection, id, limit).await
            });
            if !more.await? {
                return Ok(());
            }
        }
    }

    /// Drops the archived beginning of each conversation as far as all of it is older than the retention: segment by
    /// segment, each written anew in the transaction that says so in the index.
    async fn drop_old(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        figures: &mut EraseFigures,
    ) -> Result<()> {
        let Some(retain) = &self.settings.retain else {
            return Ok(());
        };
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let now = clock::agreed_now(&mut connection).await?;
        drop(connection);
        let cutoff = retain.before(now, &self.settings.zone());
        let mut segments: BTreeSet<SegmentId> = BTreeSet::new();
        let mut after = None;
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let heads = archive::heads_after(&mut connection, after, PAGE).await?;
            let Some(last) = heads.last() else { break };
            after = Some(last.id);
            for head in heads.iter().filter(|head| owns(lease, head.id)) {
                let old = droppable(&mut connection, head.id, cutoff).await?;
                segments.extend(old.iter().filter_map(|run| run.segment));
            }
        }
        for segment in segments {
            let mut runs = runs_of(shard, segment).await?;
            let ids: BTreeSet<ConversationId> = runs.iter().map(|(id, _)| *id).collect();
            let mut old: BTreeMap<ConversationId, Vec<ArchivedRun>> = BTreeMap::new();
            for id in ids.into_iter().filter(|id| owns(lease, *id)) {
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                old.insert(id, droppable(&mut connection, id, cutoff).await?);
            }
            runs.retain(|(id, run)| old.get(id).is_some_and(|old| old.contains(run)));
            if runs.is_empty() {
                continue; // placed under a hold meanwhile
            }
            figures.dropped_runs += runs.len() as u64;
            self.release(shard, lease, &runs).await?;
            let without = Without {
                runs,
                ..Without::default()
            };
            let rewritten = self.rewrite(shard, lease, segment, &without).await?;
            figures.count(&rewritten);
        }
        Ok(())
    }
    /// The files that only messages of these runs use, and their pins, go before them: a job that dies in between finds the runs
    /// again.
    async fn release(
        &self,
        shard: &Shard,
        lease: &Lease,
        runs: &[(ConversationId, ArchivedRun)],
    ) -> Result<()> {
        for (id, run) in runs {
            transaction(shard, async |connection| {
                let now = check_lease(connection, lease).await?;
                let mut rows = OwnedTransaction::for_job(connection);
                let stretch = (run.first_seq, run.last_seq);
                media::release_archived(&mut rows, *id, stretch, now).await?;
                pins::remove_archived(&mut rows, *id, stretch).await?;
                mentions::remove_up_to(&mut rows, *id, run.last_seq).await?;
                threads::remove_up_to(&mut rows, *id, run.last_seq).await
            })
            .await?;
        }
        Ok(())
    }
}

impl EraseFigures {
    fn count(&mut self, rewritten: &Rewritten) {
        self.rewritten += 1;
        self.bytes += rewritten.bytes;
    }
}

impl<T: Default> ShardOutcome<T> {
    fn nothing(shard: &Shard) -> Self {
        Self {
            shard: shard.name().clone(),
            figures: T::default(),
            error: None,
        }
    }
}

/// Segments that `other` has written anew, and `shard` names.
async fn named_still(shard: &Shard, other: &Shard) -> Result<Vec<SegmentId>> {
    let mut there = other.reader(Instant::now() + STEP).await?;
    let (state, until) = (SegmentState::Superseded, Timestamp::MAX);
    let superseded = archive::segments_in(&mut there, state, until, PAGE).await?;
    drop(there);
    let mut here = shard.reader(Instant::now() + STEP).await?;
    let mut named = Vec::new();
    for record in superseded {
        if archive::is_named(&mut here, record.id).await? {
            named.push(record.id);
        }
    }
    Ok(named)
}

/// Whether a conversation is in one of the ranges that the job works on.
pub(super) fn owns(lease: &Lease, id: ConversationId) -> bool {
    let key = id.owner_key();
    lease
        .ranges
        .iter()
        .any(|assignment| assignment.range.contains(key))
}

/// What can be dropped of a conversation; nothing under a legal hold.
async fn droppable(
    connection: &mut Connection,
    id: ConversationId,
    cutoff: Timestamp,
) -> Result<Vec<ArchivedRun>> {
    if archive::is_held(connection, id).await? {
        return Ok(Vec::new());
    }
    old_runs(connection, id, cutoff).await
}

/// The archived beginning of a conversation that can be dropped: runs of messages sent before `cutoff`, as far as every
/// copy of every message before them was, too. What is dropped already is left out.
async fn old_runs(
    connection: &mut Connection,
    id: ConversationId,
    cutoff: Timestamp,
) -> Result<Vec<ArchivedRun>> {
    let mut runs: Vec<ArchivedRun> = Vec::new();
    // Runs that end far behind one that is not old begin behind it.
    let is_far = |runs: &[ArchivedRun]| {
        let young = runs.iter().find(|run| run.last_at >= cutoff);
        let last = runs.last();
        young
            .zip(last)
            .is_some_and(|(young, last)| last.last_seq.0 - young.last_seq.0 >= RUN_MAX)
    };
    loop {
        let page = archive::runs_of_conversation(connection, id, runs.last(), PAGE).await?;
        let is_end = page.is_empty();
        runs.extend(page);
        if is_end || is_far(&runs) {
            break;
        }
    }
    runs.retain(|run| run.segment.is_some());
    let mut stays = Seq(COUNTER_MAX);
    loop {
        let staying = runs
            .iter()
            .filter(|run| run.last_at >= cutoff || run.last_seq >= stays);
        match staying.map(|run| run.first_seq).min() {
            Some(first) if first < stays => stays = first,
            _ => break,
        }
    }
    runs.retain(|run| run.last_seq < stays);
    Ok(runs)
}

/// All runs of a conversation.
pub(super) async fn all_runs(
    connection: &mut Connection,
    id: ConversationId,
) -> Result<Vec<ArchivedRun>> {
    let mut runs: Vec<ArchivedRun> = Vec::new();
    loop {
        let page = archive::runs_of_conversation(connection, id, runs.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(runs);
        }
        runs.extend(page);
    }
}
