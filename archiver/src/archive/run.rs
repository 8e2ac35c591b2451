//! The archive job: from hot rows to published segments; [`super`] has its order.
//!
//! While one segment's rows are deleted the next one is read, compressed and uploaded. Reading and deleting go
//! conversation by conversation, in the order of the primary key.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::archive::{
    self, About, Candidate, Lease, SegmentId, SegmentRecord, SegmentState, check_lease,
};
use backscroll_shard::ids::{ConversationId, Rev, Seq, ShardName};
use backscroll_shard::map::Assignment;
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use futures_util::future::try_join_all;
use serde::Serialize;

use super::draft::{Batch, Draft, Written};
use super::throttle::{Pace, Throttle};
use super::{Archive, Order, Progress, Result, STEP, ShardOutcome, Step, transaction};

/// Most rows read at once.
const READ_ROWS: usize = 1000;
/// How many transactions delete rows at once.
const DELETES_AT_ONCE: usize = 2;
/// Most candidates looked up at once.
const CANDIDATES: usize = 256;
/// Most runs or segments looked up at once, and heads brought up to date in one transaction.
const PAGE: usize = 128;
/// Bytes a message takes in the archive, until this deployment's own average is known: measured on real chat.
const USUAL_BYTES: u64 = 31;

/// What an archive job did on one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunFigures {
    /// Conversations with messages that were archived.
    pub conversations: u64,
    /// Messages that were archived.
    pub messages: u64,
    /// Bytes of the segments that were written.
    pub bytes: u64,
    /// Segments that were written.
    pub segments: u64,
    /// Hot rows that were deleted.
    pub deleted: u64,
    /// Older segments that were written anew because most of what they held is archived anew.
    pub compacted: u64,
    /// Segments of an earlier run whose hot rows were still there.
    pub resumed: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// How much of that it rested because others used the database.
    pub rested_millis: u64,
}

/// What an archive job would do on one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The shard.
    pub shard: ShardName,
    /// Conversations with messages old enough.
    pub conversations: u64,
    /// Those messages.
    pub messages: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Bytes they will take, by the average of what this shard has archived last.
    pub archived_bytes: u64,
    /// Segments they will fill.
    pub segments: u64,
    /// How long it will take in seconds, by the rate of the last run; none before the first.
    pub seconds: Option<u64>,
}

impl Archive {
    /// Archives what was sent before `cutoff`, shard by shard; a shard that fails does not keep the others from being
    /// archived.
    ///
    /// # Errors
    /// When there is no such shard.
    pub async fn run(
        &self,
        order: &Order,
        cutoff: Timestamp,
        progress: &Progress,
    ) -> Result<Vec<ShardOutcome<RunFigures>>> {
        let mut outcomes = Vec::new();
        for shard in self.shards(order)? {
            let shard = Arc::new(shard.apart());
            progress.update(|now| now.shard = Some(shard.name().clone()));
            let work = async |lease: &Lease, figures: &mut RunFigures| {
                let started = Instant::now();
                let throttle = Throttle::new(&shard, lease, &self.settings, progress);
                let outcome = self
                    .run_leased(&shard, lease, cutoff, (figures, &throttle, progress))
                    .await;
                figures.millis = millis(started.elapsed());
                figures.rested_millis = millis(throttle.rested());
                outcome
            };
            outcomes.push(self.job(&shard, ("run", order), work).await);
        }
        Ok(outcomes)
    }

    async fn run_leased(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        cutoff: Timestamp,
        (figures, throttle, progress): (&mut RunFigures, &Throttle<'_>, &Progress),
    ) -> Result<()> {
        let mut deleting = Pace::new();
        self.resume(shard, lease, figures, (throttle, &mut deleting, progress))
            .await?;
        let mut source = Source::new(shard, &lease.ranges, cutoff);
        let mut reading = Pace::new();
        let mut new: Vec<SegmentId> = Vec::new();
        let mut unsettled: Option<(SegmentId, Option<ConversationId>)> = None;
        loop {
            progress.update(|now| now.phase = "archiving");
            let on_write = (throttle, &mut reading, progress);
            let write = self.write_segment(shard, lease, &mut source, on_write);
            let settle = async {
                match unsettled.take() {
                    Some(id) => {
                        self.settle(shard, lease, id, (throttle, &mut deleting, progress))
                            .await
                    }
                    None => Ok(0),
                }
            };
            let (written, deleted) = futures_util::future::join(write, settle).await;
            figures.deleted += deleted?;
            let Some(written) = written? else {
                self.settle_heads(shard, lease, &source.empty).await?;
                return self.compact(shard, lease, &new, figures).await;
            };
            self.publish(shard, lease, &written).await?;
            figures.segments += 1;
            figures.messages += written.messages;
            figures.bytes += written.bytes;
            figures.conversations = source.conversations;
            new.push(written.id);
            unsettled = Some((written.id, source.continues()));
        }
    }

    /// Finishes what an earlier run published but did not settle.
    async fn resume(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        figures: &mut RunFigures,
        (throttle, pace, progress): Throttled<'_>,
    ) -> Result<()> {
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let state = SegmentState::Published;
            let found = archive::segments_in(&mut connection, state, Timestamp::MAX, PAGE).await?;
            drop(connection);
            if found.is_empty() {
                return Ok(());
            }
            progress.update(|now| now.phase = "resuming");
            for SegmentRecord { id, .. } in found {
                figures.deleted += self
                    .settle(shard, lease, (id, None), (throttle, pace, progress))
                    .await?;
                figures.resumed += 1;
            }
        }
    }

    /// The next segment, uploaded and read back; `None` when nothing is old enough any more.
    async fn write_segment(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        source: &mut Source<'_>,
        (throttle, pace, progress): Throttled<'_>,
    ) -> Result<Option<Written>> {
        let Some(mut batch) = source.next(throttle.amount(READ_ROWS)).await? else {
            return Ok(None);
        };
        let mut draft = Draft::begin(self, shard, lease).await?;
        let before = progress.snapshot().bytes;
        loop {
            let begin = Instant::now();
            let count = batch.rows.len() as u64;
            // While these are compressed, the next are read.
            let is_full = draft.bytes() >= self.settings.segment_bytes;
            let next = async {
                if is_full {
                    Ok(None)
                } else {
                    source.next(throttle.amount(READ_ROWS)).await
                }
            };
            let (pushed, next) = futures_util::future::join(draft.push(batch), next).await;
            pushed?;
            progress.update(|now| {
                now.messages += count;
                now.bytes = before + draft.bytes();
            });
            throttle.pause(pace, count, begin).await;
            match next? {
                Some(more) => batch = more,
                None => break,
            }
        }
        let written = draft.finish(self, Some(throttle)).await?;
        progress.update(|now| {
            now.bytes = before + written.bytes;
            now.conversations = source.conversations;
        });
        Ok(Some(written))
    }

    /// Makes a segment part of the archive.
    async fn publish(&self, shard: &Shard, lease: &Lease, written: &Written) -> Result<()> {
        transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            let size = (written.bytes, written.messages);
            let now = Timestamp::now();
            archive::publish(connection, written.id, size, &written.runs, now).await
        })
        .await?;
        self.passed(Step::Published);
        let name = shard.name().to_string();
        metrics::counter!("backscroll_archive_messages_total", "shard" => name.clone())
            .increment(written.messages);
        metrics::counter!("backscroll_archive_bytes_total", "shard" => name)
            .increment(written.bytes);
        Ok(())
    }

    /// Deletes the hot rows of a published segment and says how many there were. Those of a conversation that was put
    /// under a hold meanwhile stay. `continues` is the conversation that goes on in the next segment: its head is brought up
    /// to date with that one, or it would be a candidate again while its other rows are still there.
    async fn settle(
        &self,
        shard: &Shard,
        lease: &Lease,
        (id, continues): (SegmentId, Option<ConversationId>),
        (throttle, pace, progress): Throttled<'_>,
    ) -> Result<u64> {
        let mut after = None;
        let mut deleted = 0;
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let runs = archive::runs_of_segment(&mut connection, id, after, PAGE).await?;
            let Some((conversation, run)) = runs.last() else {
                break;
            };
            after = Some((*conversation, run.last_seq));
            let held = archive::holds(&mut connection).await?;
            let is_held = |id: &ConversationId| held.iter().any(|hold| hold.conversation_id == *id);
            drop(connection);
            let mut stretches: VecDeque<Stretch> = runs
                .iter()
                .filter(|(id, _)| !is_held(id))
                .map(|(id, run)| (*id, (run.first_seq, run.last_seq), run.last_rev))
                .collect();
            while !stretches.is_empty() {
                let begin = Instant::now();
                let most = throttle.amount(self.settings.delete_batch as usize) as u64;
                let batches: Vec<Vec<Stretch>> =
                    std::iter::repeat_with(|| cut(&mut stretches, most))
                        .take(throttle.at_once(DELETES_AT_ONCE))
                        .collect();
                let deletes = batches
                    .iter()
                    .map(|batch| self.delete(shard, lease, batch, progress));
                let now = try_join_all(deletes).await?.into_iter().sum();
                deleted += now;
                throttle.pause(pace, now, begin).await;
            }
            let mut conversations: Vec<ConversationId> = runs.iter().map(|(id, _)| *id).collect();
            conversations.dedup();
            conversations.retain(|id| Some(*id) != continues);
            self.settle_heads(shard, lease, &conversations).await?;
        }
        self.passed(Step::Emptied);
        transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            let step = (SegmentState::Published, SegmentState::Settled);
            archive::change_segment(connection, id, step, Timestamp::now()).await
        })
        .await?;
        self.passed(Step::Settled);
        Ok(deleted)
    }

    async fn settle_heads(
        &self,
        shard: &Shard,
        lease: &Lease,
        conversations: &[ConversationId],
    ) -> Result<()> {
        for conversations in conversations.chunks(PAGE) {
            transaction(shard, async |connection| {
                check_lease(connection, lease).await?;
                archive::settle_heads(connection, conversations).await
            })
            .await?;
        }
        Ok(())
    }

    async fn delete(
        &self,
        shard: &Shard,
        lease: &Lease,
        batch: &[Stretch],
        progress: &Progress,
    ) -> Result<u64> {
        if batch.is_empty() {
            return Ok(0);
        }
        let deleted = transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            let now = Timestamp::now();
            let mut deleted = 0;
            for (conversation, range, rev) in batch {
                deleted +=
                    archive::delete_run(connection, *conversation, *range, *rev, now).await?;
            }
            Ok(deleted)
        })
        .await?;
        self.passed(Step::Deleted);
        progress.update(|now| now.deleted += deleted);
        Ok(deleted)
    }

    /// What [`Archive::run`] would do with this cut-off. Changes nothing, and needs no lease.
    ///
    /// # Errors
    /// When there is no such shard, or one cannot be read.
    pub async fn plan(&self, order: &Order, cutoff: Timestamp) -> Result<Vec<Plan>> {
        let mut plans = Vec::new();
        for shard in self.shards(order)? {
            let (average, rate) = experience(&shard).await?;
            let mut plan = Plan {
                shard: shard.name().clone(),
                conversations: 0,
                messages: 0,
                text_bytes: 0,
                archived_bytes: 0,
                segments: 0,
                seconds: None,
            };
            for range in self.router.map().ranges_of(shard.name()) {
                let mut after: Option<Candidate> = None;
                loop {
                    let mut connection = shard.reader(Instant::now() + STEP).await?;
                    let last = after.as_ref();
                    let page =
                        archive::candidates(&mut connection, range, cutoff, last, CANDIDATES)
                            .await?;
                    let Some(last) = page.last() else { break };
                    after = Some(*last);
                    for candidate in &page {
                        let (messages, text) =
                            archive::weigh(&mut connection, candidate, cutoff).await?;
                        plan.conversations += u64::from(messages > 0);
                        plan.messages += messages;
                        plan.text_bytes += text;
                    }
                }
            }
            plan.archived_bytes = plan.messages * average;
            plan.segments = plan.archived_bytes.div_ceil(self.settings.segment_bytes);
            plan.seconds = rate.map(|rate| plan.messages.div_ceil(rate));
            plans.push(plan);
        }
        Ok(plans)
    }
}

/// Bytes that a message took, and messages a second, in the last run that had many.
async fn experience(shard: &Shard) -> Result<(u64, Option<u64>)> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    let jobs = archive::latest_jobs(&mut connection, PAGE).await?;
    let last = jobs.iter().filter(|job| job.kind == "run").find_map(|job| {
        let figures: serde_json::Value = serde_json::from_str(job.figures.get()).ok()?;
        let figure = |name: &str| figures.get(name)?.as_u64().filter(|n| *n > 0);
        let many = figure("messages").filter(|messages| *messages >= 1000)?;
        Some((many, figure("bytes")?, figure("millis")?))
    });
    Ok(
        last.map_or((USUAL_BYTES, None), |(messages, bytes, millis)| {
            let rate = (messages * 1000 / millis).max(1);
            (bytes.div_ceil(messages), Some(rate))
        }),
    )
}

/// Takes about the first `most` rows off.
fn cut(stretches: &mut VecDeque<Stretch>, most: u64) -> Vec<Stretch> {
    let mut batch = Vec::new();
    let mut room = most;
    while room > 0
        && let Some((conversation, (first, last), rev)) = stretches.pop_front()
    {
        let end = Seq(last.0.min(first.0 + room - 1));
        if end < last {
            stretches.push_front((conversation, (end.next(), last), rev));
        }
        room -= end.0 + 1 - first.0;
        batch.push((conversation, (first, end), rev));
    }
    batch
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What slows a stream of the job down, how far it is, and who is told.
type Throttled<'a> = (&'a Throttle<'a>, &'a mut Pace, &'a Progress);

/// Hot rows to be deleted: from the first to the last, as far as their rev is not beyond this one.
type Stretch = (ConversationId, (Seq, Seq), Rev);

/// The messages of a shard that are old enough, conversation by conversation.
struct Source<'a> {
    shard: &'a Shard,
    ranges: std::slice::Iter<'a, Assignment>,
    range: Option<&'a Assignment>,
    cutoff: Timestamp,
    last: Option<Candidate>,
    candidates: VecDeque<Candidate>,
    /// The conversation that is being read, and how far.
    current: Option<(Candidate, Seq)>,
    abouts: HashMap<ConversationId, About>,
    conversations: u64,
    /// Candidates with nothing to archive, or nothing more: their heads say otherwise.
    empty: Vec<ConversationId>,
}

impl<'a> Source<'a> {
    fn new(shard: &'a Shard, ranges: &'a [Assignment], cutoff: Timestamp) -> Self {
        let mut ranges = ranges.iter();
        Self {
            shard,
            range: ranges.next(),
            ranges,
            cutoff,
            last: None,
            candidates: VecDeque::new(),
            current: None,
            abouts: HashMap::new(),
            conversations: 0,
            empty: Vec::new(),
        }
    }

    /// About `wanted` messages, in order; `None` at the end.
    async fn next(&mut self, wanted: usize) -> Result<Option<Batch>> {
        let mut batch = Batch::default();
        while batch.rows.len() < wanted {
            let Some((candidate, after)) = self.conversation().await? else {
                break;
            };
            let id = candidate.conversation;
            let limit = wanted - batch.rows.len();
            let mut connection = self.shard.reader(Instant::now() + STEP).await?;
            let mut read = archive::rows_after(&mut connection, id, after, limit).await?;
            drop(connection);
            let more = read.len() == limit;
            // The first that is not old enough ends the conversation.
            let young = read.iter().position(|row| row.created_at >= self.cutoff);
            read.truncate(young.unwrap_or(read.len()));
            let reached = read.last().map_or(after, |row| row.seq);
            self.current = (more && young.is_none()).then_some((candidate, reached));
            if read.is_empty() {
                self.empty.push(id);
            }
            // What has changed since the conversation was looked at stays hot.
            read.retain(|row| row.rev <= candidate.rev);
            self.conversations += u64::from(after == Seq(0) && !read.is_empty());
            if after == Seq(0)
                && let Some(about) = self.abouts.remove(&id)
            {
                batch.abouts.push((id, about));
            }
            batch.rows.extend(read.into_iter().map(|row| (id, row)));
        }
        Ok((!batch.rows.is_empty()).then_some(batch))
    }

    /// The conversation of which more is to be read.
    fn continues(&self) -> Option<ConversationId> {
        let (candidate, _) = self.current?;
        Some(candidate.conversation)
    }

    /// The conversation to read from, and after which message.
    async fn conversation(&mut self) -> Result<Option<(Candidate, Seq)>> {
        if let Some(current) = self.current.take() {
            return Ok(Some(current));
        }
        while self.candidates.is_empty() {
            let Some(range) = self.range else {
                return Ok(None);
            };
            let mut connection = self.shard.reader(Instant::now() + STEP).await?;
            let last = self.last.as_ref();
            let page =
                archive::candidates(&mut connection, range, self.cutoff, last, CANDIDATES).await?;
            match page.last() {
                Some(last) => self.last = Some(*last),
                None => {
                    self.last = None;
                    self.range = self.ranges.next();
                }
            }
            let ids: Vec<ConversationId> = page.iter().map(|found| found.conversation).collect();
            self.abouts = archive::describe(&mut connection, &ids).await?;
            self.candidates.extend(page);
        }
        let next = self.candidates.pop_front();
        Ok(next.map(|candidate| (candidate, Seq(0))))
    }
}
