//! The archive job: from hot rows to published segments; [`super`] has its order.
//!
//! While one segment's rows are deleted the next one is read, compressed and uploaded. Reading and deleting go
//! conversation by conversation.
//!
//! Rows that were changed since they were read stay hot, and their conversation's head is brought up to date only at the
//! end: until then it says what it said before, and the run does not find the conversation again because of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::archive::{
    self, Candidate, Lease, SegmentId, SegmentRecord, SegmentState, check_lease,
};
use backscroll_shard::clock;
use backscroll_shard::ids::{ConversationId, ShardName};
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use serde::Serialize;

use super::draft::{Draft, Written};
use super::settle::Heads;
use super::source::{CANDIDATES, Source};
use super::throttle::{Pace, Throttle};
use super::{ArchiveJobs, Order, Progress, Result, STEP, ShardOutcome, Step, transaction};
use crate::metrics;

/// Most rows read at once.
pub(super) const READ_ROWS: usize = 1000;
/// Most segments, or jobs, looked up at once.
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

impl ArchiveJobs {
    /// Archives what was sent before `cutoff` and is older than `limits.idempotency`, shard by shard; a shard that fails does
    /// not keep the others from being archived.
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
            let shard = Arc::new(shard.with_separate_statement_count());
            progress.update(|now| now.shard = Some(shard.name().clone()));
            let work = async |lease: &Lease, figures: &mut RunFigures| {
                let started = Instant::now();
                let throttle = Throttle::new(&shard, lease, &self.settings, progress);
                let outcome = self
                    .run_leased(&shard, lease, cutoff, (figures, &throttle))
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
        (figures, throttle): (&mut RunFigures, &Throttle<'_>),
    ) -> Result<()> {
        let cutoff = self.bounded(shard, cutoff).await?;
        let mut deleting = throttle.pace();
        self.resume(shard, lease, figures, &mut deleting).await?;
        let believed = transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            let believed = clock::latest_believed(now);
            for assignment in &lease.ranges {
                archive::date_heads(connection, assignment.range, believed).await?;
            }
            Ok(believed)
        })
        .await?;
        let mut source = Source::new(shard, &lease.ranges, (cutoff, believed));
        let mut reading = throttle.pace();
        let mut new: Vec<SegmentId> = Vec::new();
        let mut unsettled: Option<(SegmentId, Option<ConversationId>)> = None;
        // Conversations whose heads are brought up to date at the end.
        let mut later: BTreeSet<ConversationId> = BTreeSet::new();
        loop {
            throttle.progress.update(|now| now.phase = "archiving");
            let write = self.write_segment(shard, lease, &mut source, &mut reading);
            let settle = async {
                let Some((id, continues)) = unsettled.take() else {
                    return Ok(0);
                };
                let heads = Heads {
                    continues,
                    later: &mut later,
                };
                self.settle(shard, lease, (id, heads), &mut deleting).await
            };
            let (written, deleted) = futures_util::future::join(write, settle).await;
            figures.deleted += deleted?;
            let Some(written) = written? else {
                later.extend(&source.empty);
                let later: Vec<ConversationId> = later.into_iter().collect();
                self.settle_heads(shard, lease, &later).await?;
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
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let state = SegmentState::Published;
            let found = archive::segments_in(&mut connection, state, Timestamp::MAX, PAGE).await?;
            drop(connection);
            if found.is_empty() {
                return Ok(());
            }
            pace.throttle.progress.update(|now| now.phase = "resuming");
            for SegmentRecord { id, .. } in found {
                let mut later = BTreeSet::new();
                let heads = Heads {
                    continues: None,
                    later: &mut later,
                };
                figures.deleted += self.settle(shard, lease, (id, heads), pace).await?;
                figures.resumed += 1;
                // This run has not taken them yet.
                let later: Vec<ConversationId> = later.into_iter().collect();
                self.settle_heads(shard, lease, &later).await?;
            }
        }
    }

    /// The next segment, uploaded and read back; `None` when nothing is old enough any more.
    async fn write_segment(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        source: &mut Source<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<Option<Written>> {
        let throttle = pace.throttle;
        let progress = throttle.progress;
        let Some(mut batch) = source.next(throttle.amount(self.read_rows)).await? else {
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
                    source.next(throttle.amount(self.read_rows)).await
                }
            };
            let (pushed, next) = futures_util::future::join(draft.push(batch), next).await;
            pushed?;
            progress.update(|now| {
                now.messages += count;
                now.bytes = before + draft.bytes();
            });
            pace.pause(count, begin).await;
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
            let now = check_lease(connection, lease).await?;
            let size = (written.bytes, written.messages);
            archive::publish(connection, written.id, size, &written.runs, now).await
        })
        .await?;
        self.passed(Step::Published);
        let name = shard.name().to_string();
        metrics::MESSAGES
            .with([name.clone()])
            .increment(written.messages);
        metrics::BYTES.with([name]).increment(written.bytes);
        Ok(())
    }

    /// What [`ArchiveJobs::run`] would do with this cut-off. Changes nothing, and needs no lease.
    ///
    /// # Errors
    /// When there is no such shard, or one cannot be read.
    pub async fn plan(&self, order: &Order, cutoff: Timestamp) -> Result<Vec<Plan>> {
        let mut plans = Vec::new();
        for shard in self.shards(order)? {
            let cutoff = self.bounded(&shard, cutoff).await?;
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
                            archive::count_messages_and_bytes(&mut connection, candidate, cutoff)
                                .await?;
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

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
