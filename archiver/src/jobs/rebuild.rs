//! The index from the bucket alone: for the day on which the databases are lost, or restored from a copy that is too old.
//!
//! Every segment in the bucket is read frame by frame. Its runs are put into the index of the shard that owns their
//! conversation now, and a conversation that is not there is made again from what the segment tells of it: kind, title,
//! members, and its newest archived message as its head; what is pinned is found again by its newest copy. What was hot is lost with the database; a conversation goes on
//! after its newest archived message.
//!
//! Segments do not hold the digest of the request that made a conversation under an Idempotency-Key. A repeat of that
//! request is recognised as long as the conversation is as the request asked for it, and is a conflict otherwise.
//!
//! What is in the index already and agrees with its segment stays, what does not agree is replaced, and a segment that a
//! shard has given up stays so; so it may be run again after a crash, and on shards that lack only a part. Which copy of a
//! message counts is as ever a matter of revs, whatever order the segments come in (INV-COPY). Content of deleted messages
//! that an old object brings back into the index is put down for erasure (INV-ERASE). The leases of all shards are held
//! meanwhile: nothing is archived, moved or collected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{
    self, ArchivedRun, Copies, Lease, SegmentId, SegmentRecord, SegmentState, Traces, check_lease,
};
use backscroll_shard::head;
use backscroll_shard::ids::{ConversationId, Seq, ShardName};
use backscroll_shard::node::Shard;
use backscroll_shard::owned::OwnedTransaction;
use backscroll_shard::pins;
use backscroll_shard::threads;
use futures_util::TryStreamExt as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{ArchiveError, ArchiveJobs, Order, Progress, Result, STEP, ShardOutcome, transaction};
use crate::object_store::{KeyPrefix, ObjectMeta, transfer};
use crate::segment::reader::{Frame, Run};
use crate::segment::seek_table::{FOOTER, FrameSpan, SeekTable};
use crate::segment::{KEY_PREFIX, SegmentError, SegmentHeader, segment_of};

/// About how many bytes of a segment are read at once.
const READ_BYTES: u64 = 4 << 20;

/// Most problems that are told one by one.
const PROBLEMS: usize = 100;

/// What a rebuild did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildFigures {
    /// Segments that were read.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Messages in them.
    pub messages: u64,
    /// Rows of the index that were put in, or were there.
    pub runs: u64,
    /// Conversations that were made again.
    pub conversations: u64,
    /// Segments that could not be read, and why: the first of them.
    pub problems: Vec<String>,
}

impl ArchiveJobs {
    /// Puts everything that is in the bucket into the index. A segment that cannot be read is told of, and the others are
    /// read.
    ///
    /// # Errors
    /// When a shard is busy or cannot be written, or the bucket cannot be listed.
    pub async fn rebuild(
        &self,
        order: &Order,
        progress: &Progress,
    ) -> Result<ShardOutcome<RebuildFigures>> {
        let shards: Vec<Arc<Shard>> = self.router.shards().cloned().collect();
        self.rebuild_with(order, progress, &shards, Vec::new())
            .await
    }

    /// Takes the leases of the shards that are left, one within the other, and then does the work.
    async fn rebuild_with(
        &self,
        order: &Order,
        progress: &Progress,
        left: &[Arc<Shard>],
        leases: Vec<(Arc<Shard>, Lease)>,
    ) -> Result<ShardOutcome<RebuildFigures>> {
        let Some((shard, left)) = left.split_first() else {
            let mut figures = RebuildFigures::default();
            let work = self.rebuild_leased(&leases, (&mut figures, progress));
            let done = self.stop.run_until_cancelled(work).await;
            done.unwrap_or(Err(ArchiveError::Stopped))?;
            return Ok(ShardOutcome {
                shard: leases.first().map_or_else(
                    || Err(ArchiveError::Stopped),
                    |(shard, _)| Ok(shard.name().clone()),
                )?,
                figures,
                error: None,
            });
        };
        let mut inner = None;
        let work = async |lease: &Lease, figures: &mut RebuildFigures| {
            let mut leases = leases.clone();
            leases.push((shard.clone(), lease.clone()));
            let outcome = Box::pin(self.rebuild_with(order, progress, left, leases)).await?;
            *figures = outcome.figures.clone();
            inner = outcome.error.clone();
            Ok(())
        };
        // The work stops, and then each lease is given up in its turn.
        let kept = self.clone().stopped_by(CancellationToken::new());
        let mut outcome = kept.job(shard, ("rebuild", order), work).await;
        outcome.error = outcome.error.or(inner);
        Ok(outcome)
    }

    async fn rebuild_leased(
        &self,
        leases: &[(Arc<Shard>, Lease)],
        (figures, progress): (&mut RebuildFigures, &Progress),
    ) -> Result<()> {
        progress.update(|now| now.phase = "rebuilding");
        let Ok(prefix) = KeyPrefix::new(KEY_PREFIX) else {
            return Ok(());
        };
        let mut told = Told::default();
        let mut listing = std::pin::pin!(transfer::list(self.objects.as_ref(), &prefix));
        while let Some(object) = listing.try_next().await? {
            let Some(id) = segment_of(&object.key) else {
                continue;
            };
            if given_up(leases, id).await? {
                continue;
            }
            let scanned = self.scan(&object, id, |_, run| told.add(run)).await;
            let (header, runs, messages) = match scanned {
                Ok(scanned) => scanned,
                Err(ArchiveError::Segment(error)) => {
                    tracing::error!(%error, "a segment cannot be read");
                    if figures.problems.len() < PROBLEMS {
                        figures.problems.push(error.to_string());
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            figures.segments += 1;
            figures.bytes += object.size;
            figures.messages += messages;
            figures.runs += runs.len() as u64;
            self.enter(leases, (id, &object, messages), &header, runs)
                .await?;
            progress.update(|now| {
                now.messages = figures.messages;
                now.bytes = figures.bytes;
            });
        }
        figures.conversations = self.recreate(leases, told.traces).await?;
        self.follow_again(leases, told.followed).await?;
        self.erase_again(leases, told.deleted).await
    }

    /// Reads a whole segment: its header, and its runs as rows of the index. Each run's messages are given to `told`, with the offset of
    /// their frame.
    pub(super) async fn scan(
        &self,
        object: &ObjectMeta,
        id: SegmentId,
        mut told: impl FnMut(u64, Run),
    ) -> Result<(SegmentHeader, Vec<(ConversationId, ArchivedRun)>, u64)> {
        let table = self.seek_table(object).await?;
        let mut header = None;
        let mut runs = Vec::new();
        let mut messages = 0;
        let mut rest = table.frames();
        while let Some(first) = rest.first() {
            let end = first.offset + READ_BYTES;
            let fits = rest.iter().take_while(|frame| frame.offset < end).count();
            let (chunk, later) = rest.split_at(fits.max(1));
            rest = later;
            let end = chunk
                .last()
                .map_or(0, |last| last.offset + u64::from(last.length));
            let bytes = self
                .objects
                .get_range(&object.key, first.offset..end)
                .await?;
            let (chunk, key): (Vec<FrameSpan>, _) = (chunk.to_vec(), object.key.clone());
            let read = tokio::task::spawn_blocking(move || {
                let mut frames = Vec::new();
                let mut found_header = None;
                for span in &chunk {
                    let from = usize::try_from(span.offset - chunk[0].offset).unwrap_or(usize::MAX);
                    let compressed = bytes
                        .get(from..from.saturating_add(span.length as usize))
                        .unwrap_or_default();
                    if span.offset == 0 {
                        found_header = Some(SegmentHeader::read(&key, compressed)?);
                    } else {
                        frames.push(Frame::scan(&key, span.offset, compressed)?);
                    }
                }
                Ok::<_, SegmentError>((found_header, frames))
            });
            let (found_header, frames) = read.await.map_err(|_| ArchiveError::Stopped)??;
            header = header.or(found_header);
            let Some(header) = &header else { continue };
            for (frame, entries) in frames {
                let offset = entries.first().map_or(0, |entry| entry.frame.offset);
                for run in frame.runs {
                    messages += run.messages.len() as u64;
                    told(offset, run);
                }
                let entered = entries
                    .iter()
                    .map(|entry| (entry.conversation, entry.to_run(id, header.generation)));
                runs.extend(entered);
            }
        }
        match header {
            Some(header) => Ok((header, runs, messages)),
            None => Err(ArchiveError::NotAsWritten(object.key.to_string())),
        }
    }

    pub(super) async fn seek_table(&self, object: &ObjectMeta) -> Result<SeekTable> {
        let (key, size) = (&object.key, object.size);
        let from = |bytes: usize| size.saturating_sub(bytes as u64);
        let footer = self.objects.get_range(key, from(FOOTER)..size).await?;
        let footer = footer.last_chunk().copied().unwrap_or_default();
        let length = SeekTable::size(key, footer)?;
        let bytes = self.objects.get_range(key, from(length)..size).await?;
        Ok(SeekTable::parse(key, &bytes, size)?)
    }

    /// Puts a segment's runs into the indexes of the shards that own them.
    pub(super) async fn enter(
        &self,
        leases: &[(Arc<Shard>, Lease)],
        (id, object, messages): (SegmentId, &ObjectMeta, u64),
        header: &SegmentHeader,
        runs: Vec<(ConversationId, ArchivedRun)>,
    ) -> Result<()> {
        let map = self.router.map();
        let mut by_shard: BTreeMap<ShardName, Vec<(ConversationId, ArchivedRun)>> = BTreeMap::new();
        for (conversation, run) in runs {
            let shard = map.locate(conversation.owner_key()).shard.clone();
            by_shard.entry(shard).or_default().push((conversation, run));
        }
        for (name, runs) in by_shard {
            let Some((shard, lease)) = leases.iter().find(|(shard, _)| *shard.name() == name)
            else {
                continue;
            };
            transaction(shard, async |connection| {
                let record = SegmentRecord {
                    id,
                    generation: header.generation,
                    state: SegmentState::Settled,
                    bytes: object.size,
                    messages,
                    created_at: header.created_at,
                    changed_at: check_lease(connection, lease).await?,
                };
                archive::enter_segment(connection, &record, &runs).await
            })
            .await?;
        }
        Ok(())
    }

    /// Puts down for erasure what was deleted and has more than the copy of its deletion: an object that was not deleted
    /// yet when the databases were lost may hold the content.
    async fn erase_again(
        &self,
        leases: &[(Arc<Shard>, Lease)],
        deleted: BTreeSet<(ConversationId, Seq)>,
    ) -> Result<()> {
        let map = self.router.map();
        for (id, seq) in deleted {
            let name = &map.locate(id.owner_key()).shard;
            let Some((shard, lease)) = leases.iter().find(|(shard, _)| shard.name() == name) else {
                continue;
            };
            transaction(shard, async |connection| {
                let now = check_lease(connection, lease).await?;
                let copies = Copies::find(connection, id, (seq, seq)).await?;
                if copies.runs().len() > 1 {
                    archive::request_erasure(connection, id, seq, now).await?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Enters the pins and replies of messages, as their newest copies say.
    async fn follow_again(
        &self,
        leases: &[(Arc<Shard>, Lease)],
        followed: BTreeSet<(ConversationId, Seq)>,
    ) -> Result<()> {
        let map = self.router.map();
        for (id, seq) in followed {
            let name = &map.locate(id.owner_key()).shard;
            let Some((shard, lease)) = leases.iter().find(|(shard, _)| shard.name() == name) else {
                continue;
            };
            for message in self.archived(shard, id, (seq, seq)).await? {
                transaction(shard, async |connection| {
                    check_lease(connection, lease).await?;
                    let mut rows = OwnedTransaction::for_job(connection);
                    head::lock(&mut rows, &[id]).await?; // replies are counted under it
                    pins::follow(&mut rows, id, &message).await?;
                    threads::follow(&mut rows, id, &message).await?;
                    match message.reply_to {
                        Some(_) => threads::note(connection, id).await,
                        None => Ok(()),
                    }
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn recreate(
        &self,
        leases: &[(Arc<Shard>, Lease)],
        traces: BTreeMap<ConversationId, Traces>,
    ) -> Result<u64> {
        let map = self.router.map();
        let max_relayed = self.router.settings().relay.max_members;
        let mut made = 0;
        for (id, traces) in traces {
            let name = &map.locate(id.owner_key()).shard;
            let Some((shard, lease)) = leases.iter().find(|(shard, _)| shard.name() == name) else {
                continue;
            };
            let created = transaction(shard, async |connection| {
                check_lease(connection, lease).await?;
                archive::recreate(connection, id, &traces, max_relayed).await
            });
            made += u64::from(created.await?);
        }
        Ok(made)
    }
}

/// Whether a shard knows that the segment is not, or no more, part of the archive: it may hold what was erased since.
async fn given_up(leases: &[(Arc<Shard>, Lease)], id: SegmentId) -> Result<bool> {
    for (shard, _) in leases {
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let record = archive::segment(&mut connection, id).await?;
        let part = |state| matches!(state, SegmentState::Published | SegmentState::Settled);
        if record.is_some_and(|record| !part(record.state)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What all segments tell.
#[derive(Default)]
struct Told {
    traces: BTreeMap<ConversationId, Traces>,
    /// Messages of which there is the copy of their deletion.
    deleted: BTreeSet<(ConversationId, Seq)>,
    /// Messages that answer another one, or of which there is a copy that is pinned: tables are made from them.
    followed: BTreeSet<(ConversationId, Seq)>,
}

impl Told {
    /// Takes what a run tells of its conversation in.
    fn add(&mut self, run: Run) {
        let id = run.conversation;
        let deleted = run.messages.iter().filter(|it| it.deleted_at.is_some());
        self.deleted
            .extend(deleted.map(|message| (id, message.seq)));
        let messages = run.messages.iter();
        let followed = messages.filter(|it| it.pin.is_some() || it.reply_to.is_some());
        self.followed
            .extend(followed.map(|message| (id, message.seq)));
        let mut messages = run.messages.iter();
        let Some(first) = messages.next() else { return };
        let known = self
            .traces
            .entry(id)
            .and_modify(|known| known.add(first))
            .or_insert_with(|| Traces::of(first));
        messages.for_each(|message| known.add(message));
        // Segments come in no order; that of the newest message has told of the conversation last.
        let last = run.messages.last();
        let is_newest =
            last.is_some_and(|last| (last.seq, last.rev) == (known.last.seq, known.last_rev));
        if is_newest || known.about.is_none() {
            known.about = run.about.or(known.about.take());
        }
    }
}
