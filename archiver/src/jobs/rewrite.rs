//! A segment written anew without what must not, or need not, be in it (INV-OBJECT: objects never change).
//!
//! One transaction names the new segment in place of the old one, which [`super::collect`] deletes after a grace period
//! for who is reading it. The new segment gets, of each message that the old one holds, the copy unless it is a hot row
//! that is as new, or another segment has a copy that counts as much (INV-COPY); where the index cannot tell, the other
//! copies are read. A copy that cannot be read supersedes nothing.
//!
//! Rows of ranges that have moved away, which a source keeps for a while, do not count: what their owner has erased since would be
//! written anew, into a segment that the owner does not know. A move that is reversed copies them again.
//!
//! A crash leaves an intent that is collected later, or both objects with one of them named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{
    self, ArchivedRun, Copies, Lease, SegmentId, SegmentState, check_lease,
};
use backscroll_shard::cold_tier::ColdTier as _;
use backscroll_shard::fence;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;
use backscroll_shard::range::KeyRange;

use super::draft::{Batch, Draft, Written};
use super::run::RunFigures;
use super::{ArchiveError, ArchiveJobs, Result, STEP, Step, transaction};
use crate::segment::reader::Frame;
use crate::segment::{FrameDigest, FrameLocation, object_key};

/// What a segment is written anew without, besides what is elsewhere.
#[derive(Debug, Default)]
pub(super) struct Without {
    /// Deleted conversations.
    pub(super) conversations: BTreeSet<ConversationId>,
    /// Deleted messages.
    pub(super) messages: BTreeSet<(ConversationId, Seq)>,
    /// Runs of this segment whose retention has ended; the index says so in the same transaction.
    pub(super) runs: Vec<(ConversationId, ArchivedRun)>,
}

/// What came of writing a segment anew.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// Bytes of the new segment; 0 when none was needed.
    pub(super) bytes: u64,
    /// Messages that are to be erased, and of which the old segment had the newest copy, which is not deleted: something
    /// has undone the deletion. They were kept, or there would be nothing in their place.
    pub(super) undone: BTreeSet<(ConversationId, Seq)>,
}

/// What goes into the new segment.
#[derive(Default)]
struct Kept {
    written: Option<Written>,
    undone: BTreeSet<(ConversationId, Seq)>,
}

impl ArchiveJobs {
    /// Writes a segment anew with the messages that only it has.
    pub(super) async fn rewrite(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        old: SegmentId,
        without: &Without,
    ) -> Result<Rewritten> {
        let kept = self.write_kept(shard, lease, old, without).await?;
        transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            for (conversation, run) in &without.runs {
                archive::drop_run(connection, *conversation, run).await?;
            }
            archive::unname_segment(connection, old).await?;
            if let Some(new) = &kept.written {
                let size = (new.bytes, new.messages);
                archive::publish(connection, new.id, size, &new.runs, now).await?;
                // What it has is nowhere among the hot rows.
                let settled = (SegmentState::Published, SegmentState::Settled);
                archive::change_segment(connection, new.id, settled, now).await?;
            }
            archive::supersede(connection, old, now).await
        })
        .await?;
        self.passed(Step::Rewritten);
        Ok(Rewritten {
            bytes: kept.written.map_or(0, |new| new.bytes),
            undone: kept.undone,
        })
    }

    async fn write_kept(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        old: SegmentId,
        without: &Without,
    ) -> Result<Kept> {
        let mut runs = runs_of(shard, old).await?;
        let served = served_by(shard).await?;
        let is_served =
            |id: ConversationId| served.iter().any(|range| range.contains(id.owner_key()));
        runs.retain(|run| {
            is_served(run.0)
                && !without.conversations.contains(&run.0)
                && !without.runs.contains(run)
        });
        // In the order of the file, so that each frame is read once.
        runs.sort_by_key(|(id, run)| (run.offset, *id, run.first_seq));
        let mut kept = Kept::default();
        let mut draft: Option<Draft> = None;
        let mut current: Option<(u64, Frame)> = None;
        let mut described: BTreeSet<ConversationId> = BTreeSet::new();
        for (id, run) in &runs {
            let elsewhere = Elsewhere::of(shard, *id, run).await?;
            if elsewhere.surely_has_all(run) {
                continue;
            }
            let frame = match current.take() {
                Some((offset, frame)) if offset == run.offset => frame,
                _ => self.read_frame(old, run).await?,
            };
            let messages = frame.run(*id, run.first_seq, run.last_seq);
            let messages =
                messages.ok_or_else(|| ArchiveError::NotAsWritten(object_key(old).to_string()))?;
            let rows = self.only_here((*id, run), messages, &elsewhere).await?;
            current = Some((run.offset, frame));
            if rows.is_empty() {
                continue;
            }
            let places = rows.iter().map(|(id, row)| ((*id, row.seq), row));
            let undone = places.filter(|(place, row)| {
                row.deleted_at.is_none() && without.messages.contains(place)
            });
            kept.undone.extend(undone.map(|(place, _)| place));
            let mut target = match draft.take() {
                Some(draft) => draft,
                None => Draft::begin(self, shard, lease).await?,
            };
            let mut abouts = Vec::new();
            if described.insert(*id) {
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                abouts.extend(archive::describe(&mut connection, &[*id]).await?);
            }
            target.push(Batch { abouts, rows }).await?;
            draft = Some(target);
        }
        if let Some(draft) = draft {
            kept.written = Some(draft.finish(self, None).await?);
        }
        Ok(kept)
    }

    /// Those of a run's messages that are neither hot nor in a copy of another run that counts as much.
    async fn only_here(
        &self,
        (id, run): (ConversationId, &ArchivedRun),
        messages: &[StoredMessage],
        elsewhere: &Elsewhere,
    ) -> Result<Vec<(ConversationId, StoredMessage)>> {
        let cold = messages.iter().filter(|message| {
            let hot = elsewhere.hot.get(&message.seq);
            hot.is_none_or(|rev| *rev < message.rev)
        });
        let cold: Vec<StoredMessage> = cold.cloned().collect();
        let rivals = elsewhere.copies.rivals(run, &cold);
        let parts = rivals.parts();
        let deadline = Instant::now() + STEP;
        let reads = self.frames.read(id, &parts, deadline).await;
        let superseded = rivals.superseded(reads)?;
        let only = cold
            .into_iter()
            .filter(|message| !superseded.contains(&message.seq));
        Ok(only.map(|message| (id, message)).collect())
    }

    /// Writes segments anew of which the `new` ones have archived messages again, once less than half of what they were
    /// written with is probably only there: so that superseded copies take no more room than what counts.
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
            let mut only_here = 0;
            for (conversation, run) in runs_of(shard, id).await? {
                let elsewhere = Elsewhere::of(shard, conversation, &run).await?;
                only_here += elsewhere.probably_lacks(&run);
            }
            if only_here * 2 < record.messages {
                self.rewrite(shard, lease, id, &Without::default()).await?;
                figures.compacted += 1;
            }
        }
        Ok(())
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

/// Where else messages of a run are. Nothing is archived or taken away meanwhile, since the job holds the lease; rows that
/// become hot only make a copy superfluous that is kept.
struct Elsewhere {
    hot: BTreeMap<Seq, Rev>,
    copies: Copies,
}

impl Elsewhere {
    async fn of(shard: &Shard, id: ConversationId, run: &ArchivedRun) -> Result<Self> {
        let range = (run.first_seq, run.last_seq);
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        Ok(Self {
            hot: archive::hot_revs(&mut connection, id, range).await?,
            copies: Copies::find(&mut connection, id, range).await?,
        })
    }

    /// Whether the run need not be read, since all of it is elsewhere.
    fn surely_has_all(&self, run: &ArchivedRun) -> bool {
        seqs(run).all(|seq| {
            self.hot.get(&seq).is_some_and(|rev| *rev >= run.last_rev)
                || self.copies.is_surely_elsewhere(run, seq)
        })
    }

    /// How many of the run's messages are probably nowhere else.
    fn probably_lacks(&self, run: &ArchivedRun) -> u64 {
        let lacks = |seq: &Seq| {
            !self.hot.contains_key(seq) && !self.copies.is_probably_elsewhere(run, *seq)
        };
        seqs(run).filter(lacks).count() as u64
    }
}

fn seqs(run: &ArchivedRun) -> impl Iterator<Item = Seq> {
    (run.first_seq.0..=run.last_seq.0).map(Seq)
}

/// The ranges that the shard serves by its own fences: the map may not know yet what has come to it. None of them leaves while the
/// job holds its lease.
async fn served_by(shard: &Shard) -> Result<Vec<KeyRange>> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    let fences = fence::all(&mut connection).await?.into_iter();
    let served = fences.filter(|fence| fence.state.takes_reads());
    Ok(served.map(|fence| fence.range).collect())
}

/// All runs that name a segment.
pub(super) async fn runs_of(
    shard: &Shard,
    segment: SegmentId,
) -> Result<Vec<(ConversationId, ArchivedRun)>> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    Ok(archive::all_runs_of_segment(&mut connection, segment).await?)
}
