//! What must go from archived objects: deleted content, ended retentions, superseded copies (INV-ERASE).
//!
//! Objects never change (INV-OBJECT), so a segment with something that must go is written anew without it, under another
//! name; one transaction then names the new one in place of the old. The old object is deleted by [`super::collect`]
//! after a short grace period for who is reading it, and only then the erasure has its receipt. What a new segment gets
//! is, of each message that only the old one has, the copy that counts; what is hot or archived again elsewhere is left
//! out.
//!
//! A crash leaves an intent that is collected later, or both objects with one of them named; the erasure is still put
//! down and is done again, which finds nothing to do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{
    self, ArchivedRun, Erasure, Lease, SegmentId, SegmentState, check_lease,
};
use backscroll_shard::db::Connection;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use serde::Serialize;

use super::draft::{Batch, Draft, Written};
use super::run::RunFigures;
use super::{
    Archive, ArchiveError, Order, Progress, Result, STEP, ShardOutcome, Step, transaction,
};
use crate::segment::reader::Frame;
use crate::segment::{FrameDigest, FrameLocation, object_key};

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
    /// Runs of messages that were dropped because their retention ended.
    pub dropped_runs: u64,
    /// Segments that were written anew, or were not needed any more.
    pub rewritten: u64,
    /// Bytes of the new segments.
    pub bytes: u64,
}

impl Archive {
    /// Removes deleted content from the index, and drops what is older than `archive.retain`. [`Archive::collect`] then
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
        Ok(outcomes)
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
        let mut held: BTreeSet<(ConversationId, Seq)> = BTreeSet::new();
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let page = archive::pending_erasures(&mut connection, PAGE + held.len()).await?;
            let mut round = Vec::new();
            for erasure in page {
                let key = (erasure.conversation_id, erasure.seq);
                if held.contains(&key) {
                    continue;
                }
                if archive::is_held(&mut connection, erasure.conversation_id).await? {
                    held.insert(key);
                    figures.held += 1;
                } else {
                    round.push(erasure);
                }
            }
            drop(connection);
            if round.is_empty() {
                return Ok(());
            }
            self.erase_round(shard, lease, &round, figures).await?;
            figures.erasures += round.len() as u64;
        }
    }

    async fn erase_round(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        round: &[Erasure],
        figures: &mut EraseFigures,
    ) -> Result<()> {
        let mut segments: BTreeSet<SegmentId> = BTreeSet::new();
        let mut gone: BTreeSet<ConversationId> = BTreeSet::new();
        for erasure in round {
            let id = erasure.conversation_id;
            let runs = if erasure.seq == Seq(0) {
                gone.insert(id);
                self.purge(shard, lease, id).await?;
                all_runs(shard, id).await?
            } else {
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                archive::locate(&mut connection, id, (erasure.seq, erasure.seq)).await?
            };
            segments.extend(runs.iter().filter_map(|run| run.segment));
        }
        for segment in segments {
            self.rewrite(shard, lease, segment, &gone, figures).await?;
        }
        transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            for erasure in round {
                let now = Timestamp::now();
                let id = erasure.conversation_id;
                archive::erasure_rewritten(connection, id, erasure.seq, now).await?;
            }
            Ok(())
        })
        .await?;
        Ok(())
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

    /// Drops the archived beginning of each conversation as far as all of it is older than the retention.
    async fn drop_old(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        figures: &mut EraseFigures,
    ) -> Result<()> {
        let Some(retain) = &self.settings.retain else {
            return Ok(());
        };
        let cutoff = retain.before(Timestamp::now(), &self.settings.zone());
        let mut segments: BTreeSet<SegmentId> = BTreeSet::new();
        let mut after = None;
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let heads = archive::heads_after(&mut connection, after, PAGE).await?;
            let Some(last) = heads.last() else { break };
            after = Some(last.id);
            for head in heads.iter().filter(|head| owns(lease, head.id)) {
                if archive::is_held(&mut connection, head.id).await? {
                    continue;
                }
                let old = old_runs(&mut connection, head.id, cutoff).await?;
                if old.is_empty() {
                    continue;
                }
                transaction(shard, async |connection| {
                    check_lease(connection, lease).await?;
                    for run in &old {
                        archive::drop_run(connection, head.id, run).await?;
                    }
                    Ok(())
                })
                .await?;
                figures.dropped_runs += old.len() as u64;
                segments.extend(old.iter().filter_map(|run| run.segment));
            }
        }
        for segment in segments {
            self.rewrite(shard, lease, segment, &BTreeSet::new(), figures)
                .await?;
        }
        Ok(())
    }

    /// Writes segments anew of which the `new` ones have archived messages again, once less than half of what they were
    /// written with is only there: so that superseded copies take no more room than what counts.
    pub(super) async fn compact(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        new: &[SegmentId],
        figures: &mut RunFigures,
    ) -> Result<()> {
        let mut overtaken: BTreeSet<SegmentId> = BTreeSet::new();
        for id in new {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            overtaken.extend(archive::overtaken_by(&mut connection, *id).await?);
        }
        for id in overtaken {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let record = archive::segment(&mut connection, id).await?;
            drop(connection);
            let Some(record) = record.filter(|it| it.state == SegmentState::Settled) else {
                continue;
            };
            let mut live = 0;
            for (conversation, run) in runs_of(shard, id).await? {
                live += only_here(shard, conversation, &run).await?.len() as u64;
            }
            if live * 2 < record.messages {
                let mut rewritten = EraseFigures::default();
                self.rewrite(shard, lease, id, &BTreeSet::new(), &mut rewritten)
                    .await?;
                figures.compacted += rewritten.rewritten;
            }
        }
        Ok(())
    }

    /// Writes a segment anew with the messages that only it has, without those of the conversations that are `gone`.
    async fn rewrite(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        old: SegmentId,
        gone: &BTreeSet<ConversationId>,
        figures: &mut EraseFigures,
    ) -> Result<()> {
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let record = archive::segment(&mut connection, old).await?;
        let state = record.map_or(SegmentState::Settled, |record| record.state);
        drop(connection);
        let kept = self.write_kept(shard, lease, old, gone).await?;
        transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            archive::unname_segment(connection, old).await?;
            let now = Timestamp::now();
            if let Some(new) = &kept {
                archive::publish(
                    connection,
                    new.id,
                    (new.bytes, new.messages),
                    &new.runs,
                    now,
                )
                .await?;
                // What it has is nowhere among the hot rows.
                let settled = (SegmentState::Published, SegmentState::Settled);
                archive::change_segment(connection, new.id, settled, now).await?;
            }
            let step = (state, SegmentState::Superseded);
            archive::change_segment(connection, old, step, now).await
        })
        .await?;
        self.passed(Step::Rewritten);
        figures.rewritten += 1;
        figures.bytes += kept.map_or(0, |new| new.bytes);
        Ok(())
    }

    async fn write_kept(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        old: SegmentId,
        gone: &BTreeSet<ConversationId>,
    ) -> Result<Option<Written>> {
        let mut runs = runs_of(shard, old).await?;
        runs.retain(|(id, _)| !gone.contains(id));
        // In the order of the file, so that each frame is read once.
        runs.sort_by_key(|(id, run)| (run.offset, *id, run.first_seq));
        let mut draft: Option<Draft> = None;
        let mut current: Option<(u64, Frame)> = None;
        let mut described: BTreeSet<ConversationId> = BTreeSet::new();
        for (id, run) in &runs {
            let wanted = only_here(shard, *id, run).await?;
            if wanted.is_empty() {
                continue;
            }
            let frame = match current.take() {
                Some((offset, frame)) if offset == run.offset => frame,
                _ => self.read_frame(old, run).await?,
            };
            let messages = frame.run(*id, run.first_seq, run.last_seq);
            let messages =
                messages.ok_or_else(|| ArchiveError::NotAsWritten(object_key(old).to_string()))?;
            let kept: Vec<(ConversationId, StoredMessage)> = messages
                .iter()
                .filter(|message| wanted.contains(&message.seq))
                .map(|message| (*id, message.clone()))
                .collect();
            current = Some((run.offset, frame));
            let mut target = match draft.take() {
                Some(draft) => draft,
                None => Draft::begin(self, shard, lease).await?,
            };
            let mut abouts = Vec::new();
            if described.insert(*id) {
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                abouts.extend(archive::describe(&mut connection, &[*id]).await?);
            }
            target.push(Batch { abouts, rows: kept }).await?;
            draft = Some(target);
        }
        match draft {
            Some(draft) => draft.finish(self, None).await.map(Some),
            None => Ok(None),
        }
    }

    /// A frame as the index has it.
    pub(super) async fn read_frame(&self, segment: SegmentId, run: &ArchivedRun) -> Result<Frame> {
        let key = object_key(segment);
        let location = FrameLocation {
            offset: run.offset,
            length: run.length,
            digest: FrameDigest(run.digest),
        };
        let end = run.offset + u64::from(run.length);
        let bytes = self.objects.get_range(&key, run.offset..end).await?;
        let read = tokio::task::spawn_blocking(move || Frame::read(&key, &location, &bytes));
        Ok(read.await.map_err(|_| ArchiveError::Stopped)??)
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

/// Whether a conversation is in one of the ranges that the job works on.
pub(super) fn owns(lease: &Lease, id: ConversationId) -> bool {
    let key = id.owner_key();
    lease
        .ranges
        .iter()
        .any(|assignment| assignment.range.contains(key))
}

/// The archived beginning of a conversation that was sent before `cutoff`, as far as it is not dropped yet.
async fn old_runs(
    connection: &mut Connection,
    id: ConversationId,
    cutoff: Timestamp,
) -> Result<Vec<ArchivedRun>> {
    let mut old = Vec::new();
    let mut after = None;
    loop {
        let page = archive::runs_of_conversation(connection, id, after.as_ref(), PAGE).await?;
        let count = page.iter().take_while(|run| run.last_at < cutoff).count();
        old.extend(page.iter().take(count).filter(|run| run.segment.is_some()));
        match page.last() {
            Some(last) if count == page.len() => after = Some(*last),
            _ => return Ok(old),
        }
    }
}

/// All runs of a conversation.
pub(super) async fn all_runs(shard: &Shard, id: ConversationId) -> Result<Vec<ArchivedRun>> {
    let mut runs: Vec<ArchivedRun> = Vec::new();
    loop {
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let page = archive::runs_of_conversation(&mut connection, id, runs.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(runs);
        }
        runs.extend(page);
    }
}

/// All runs that name a segment.
async fn runs_of(shard: &Shard, segment: SegmentId) -> Result<Vec<(ConversationId, ArchivedRun)>> {
    let mut runs: Vec<(ConversationId, ArchivedRun)> = Vec::new();
    loop {
        let after = runs.last().map(|(id, run)| (*id, run.last_seq));
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let page = archive::runs_of_segment(&mut connection, segment, after, PAGE).await?;
        if page.is_empty() {
            return Ok(runs);
        }
        runs.extend(page);
    }
}

/// Which of a run's messages are neither hot nor in a run of a greater generation.
async fn only_here(shard: &Shard, id: ConversationId, run: &ArchivedRun) -> Result<BTreeSet<Seq>> {
    let range = (run.first_seq, run.last_seq);
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    let others = archive::locate(&mut connection, id, range).await?;
    let hot = archive::hot_seqs(&mut connection, id, range).await?;
    let mut wanted: BTreeSet<Seq> = (range.0.0..=range.1.0).map(Seq).collect();
    wanted.retain(|seq| {
        hot.binary_search(seq).is_err()
            && !others
                .iter()
                .any(|other| other.generation > run.generation && other.holds(*seq))
    });
    Ok(wanted)
}
