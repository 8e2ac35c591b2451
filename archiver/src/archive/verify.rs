//! The scrub: whether everything that the index names is there and right, and whether every message is somewhere.
//!
//! Bucket against index both ways, every frame of the segments looked at (all, or a sample) by digest and line by line,
//! and for every conversation that each seq from 1 to its head is hot or archived (INV-SEQ, INV-TIER). It changes
//! nothing and needs no lease; what is archived or collected meanwhile is looked at again before it is called a problem.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{self, ArchivedRun, SegmentId, SegmentState};
use backscroll_shard::conversation::{self, Head};
use backscroll_shard::db::Connection;
use backscroll_shard::ids::{ConversationId, Seq, ShardName};
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use serde::Serialize;

use super::erase::all_runs;
use super::{Archive, ArchiveError, Order, Progress, Result, STEP};
use crate::object_store::ErrorKind;
use crate::segment::object_key;

/// Most rows looked up at once.
const PAGE: usize = 256;

/// Most problems that are told one by one.
const PROBLEMS: usize = 1000;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerifyOptions {
    /// Which part of the segments is read, in percent; of the others only presence and size are looked at.
    pub sample_percent: f64,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            sample_percent: 100.0,
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The shard.
    pub shard: ShardName,
    /// The segment's key, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// The conversation, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<ConversationId>,
    /// What is wrong.
    pub problem: String,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Segments that the index names.
    pub segments: u64,
    /// Of these, those whose frames were read.
    pub read: u64,
    /// Frames that were read.
    pub frames: u64,
    /// Archived messages in them, as the index has them.
    pub messages: u64,
    /// Conversations whose every message was looked for.
    pub conversations: u64,
    /// Objects under the archive's prefix.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Objects that nothing names; `gc` deletes them after their grace period.
    pub orphans: u64,
    /// Objects under the prefix that are no segments.
    pub foreign: u64,
    /// What is wrong: the first of them.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn add(&mut self, problem: Problem) {
        metrics::counter!("backscroll_archive_verify_failures_total").increment(1);
        tracing::error!(shard = %problem.shard, segment = problem.segment, problem = problem.problem, "the archive is not as it should be");
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS {
            self.problems.push(problem);
        }
    }
}

impl Archive {
    /// Looks the archive over.
    ///
    /// # Errors
    /// When a shard or the object store cannot be read; what is wrong with their content is in the report.
    pub async fn verify(
        &self,
        order: &Order,
        options: VerifyOptions,
        progress: &Progress,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let orphans = self.orphans(Timestamp::now()).await?;
        report.objects = orphans.listed;
        report.object_bytes = orphans.bytes;
        report.foreign = orphans.foreign;
        report.orphans = orphans.due.len() as u64 + orphans.in_grace;
        for shard in self.shards(order)? {
            progress.update(|now| {
                now.shard = Some(shard.name().clone());
                now.phase = "verifying";
            });
            self.verify_segments(&shard, options, (&mut report, progress))
                .await?;
            verify_conversations(&shard, (&mut report, progress)).await?;
        }
        Ok(report)
    }

    async fn verify_segments(
        &self,
        shard: &Arc<Shard>,
        options: VerifyOptions,
        (report, progress): (&mut VerifyReport, &Progress),
    ) -> Result<()> {
        let mut after = None;
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let next = archive::next_named_segment(&mut connection, after).await?;
            drop(connection);
            let Some(id) = next else { return Ok(()) };
            after = Some(id);
            report.segments += 1;
            let is_sampled = rand::random::<f64>() * 100.0 < options.sample_percent;
            let found = self
                .verify_segment(shard, id, is_sampled, (report, progress))
                .await?;
            // What was superseded meanwhile is no problem.
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            if !found.is_empty() && archive::is_named(&mut connection, id).await? {
                for problem in found {
                    report.add(Problem {
                        shard: shard.name().clone(),
                        segment: Some(object_key(id).to_string()),
                        conversation_id: None,
                        problem,
                    });
                }
            }
        }
    }

    async fn verify_segment(
        &self,
        shard: &Arc<Shard>,
        id: SegmentId,
        is_sampled: bool,
        (report, progress): (&mut VerifyReport, &Progress),
    ) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let record = archive::segment(&mut connection, id).await?;
        drop(connection);
        match record {
            None => problems.push("the index names it, and it is not registered".into()),
            Some(record)
                if !matches!(
                    record.state,
                    SegmentState::Published | SegmentState::Settled
                ) =>
            {
                problems.push(format!(
                    "the index names it, and it is {}",
                    record.state.name()
                ));
            }
            Some(_) => {}
        }
        match self.objects.head(&object_key(id)).await {
            Ok(meta) => {
                if let Some(record) = record.filter(|record| record.bytes != meta.size) {
                    problems.push(format!(
                        "its object has {} bytes instead of {}",
                        meta.size, record.bytes
                    ));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                problems.push("its object is missing".into());
                return Ok(problems);
            }
            Err(error) => return Err(error.into()),
        }
        if !is_sampled {
            return Ok(problems);
        }
        report.read += 1;
        let mut frames: BTreeMap<u64, Vec<(ConversationId, ArchivedRun)>> = BTreeMap::new();
        let mut last = None;
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let page = archive::runs_of_segment(&mut connection, id, last, PAGE).await?;
            let Some((conversation, run)) = page.last() else {
                break;
            };
            last = Some((*conversation, run.last_seq));
            for (conversation, run) in page {
                frames
                    .entry(run.offset)
                    .or_default()
                    .push((conversation, run));
            }
        }
        for runs in frames.values() {
            report.frames += 1;
            let Some((_, first)) = runs.first() else {
                continue;
            };
            let frame = match self.read_frame(id, first).await {
                Ok(frame) => frame,
                Err(ArchiveError::Segment(error)) => {
                    problems.push(error.to_string());
                    continue;
                }
                Err(ArchiveError::Objects(error))
                    if matches!(error.kind(), ErrorKind::OutOfRange | ErrorKind::NotFound) =>
                {
                    problems.push(format!("frame at {}: {error}", first.offset));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (conversation, run) in runs {
                report.messages += run.messages();
                let range = (run.first_seq, run.last_seq);
                let found = frame.run(*conversation, range.0, range.1);
                let last_rev = found.and_then(|messages| messages.iter().map(|m| m.rev).max());
                if last_rev != Some(run.last_rev) {
                    problems.push(format!(
                        "frame at {}: it does not have messages {} to {} of conversation {conversation} as the index says",
                        run.offset, range.0, range.1
                    ));
                }
            }
            progress.update(|now| now.messages = report.messages);
        }
        Ok(problems)
    }
}

async fn verify_conversations(
    shard: &Arc<Shard>,
    (report, progress): (&mut VerifyReport, &Progress),
) -> Result<()> {
    let mut after = None;
    loop {
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let heads = archive::heads_after(&mut connection, after, PAGE).await?;
        drop(connection);
        let Some(last) = heads.last() else {
            return Ok(());
        };
        after = Some(last.id);
        for head in heads.iter().filter(|head| head.deleted_at.is_none()) {
            report.conversations += 1;
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let mut missing = missing_messages(&mut connection, head).await?;
            if missing.is_some() {
                // Rows may have gone from one tier to the other between the two looks, or all of them with their conversation.
                connection.begin_snapshot().await?;
                missing = missing_messages(&mut connection, head).await?;
                let is_there = conversation::is_there(&mut connection, head.id).await?;
                missing = missing.filter(|_| is_there);
                connection.commit().await?;
            }
            drop(connection);
            if let Some((first, last, count)) = missing {
                report.add(Problem {
                    shard: shard.name().clone(),
                    segment: None,
                    conversation_id: Some(head.id),
                    problem: format!(
                        "{count} of the messages {first} to {last} are neither hot nor archived"
                    ),
                });
            }
        }
        progress.update(|now| now.conversations = report.conversations);
    }
}

/// The first stretch outside the archived runs that has fewer hot rows than seqs, and how many it lacks.
async fn missing_messages(
    connection: &mut Connection,
    head: &Head,
) -> Result<Option<(Seq, Seq, u64)>> {
    let mut runs = all_runs(connection, head.id).await?;
    runs.sort_by_key(|run| run.first_seq);
    let mut next = Seq(1);
    let end = head.head_seq.next();
    let bounds = runs.iter().map(|run| (run.first_seq, run.last_seq.next()));
    for (first, after) in bounds.chain([(end, end)]) {
        if first > next {
            let last = Seq(first.0 - 1);
            let hot = archive::hot_count(connection, head.id, (next, last)).await?;
            let wanted = first.0 - next.0;
            if hot < wanted {
                return Ok(Some((next, last, wanted - hot)));
            }
        }
        next = next.max(after);
    }
    Ok(None)
}
