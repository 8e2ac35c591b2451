//! The scrub: whether everything that the index names is there and right, and whether every message is somewhere.
//!
//! Bucket against index both ways, every frame of the segments looked at (all, or a sample) by digest and line by line;
//! for every conversation that each seq from 1 to its head is hot or archived (INV-SEQ, INV-TIER), and that the copies of
//! its messages agree: none is hot in an older version, none that was deleted is shown (INV-COPY, INV-ERASE). It changes
//! nothing and needs no lease; what is archived or collected meanwhile is looked at again before it is called a problem.
//! [`super::repair`] mends what can be mended.

use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{self, SegmentId};
use backscroll_shard::db::Connection;
use backscroll_shard::head::{self, Head};
use backscroll_shard::ids::{ConversationId, Seq, ShardName};
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use backscroll_shard::owned::OwnedReader;
use serde::Serialize;

use super::erase::all_runs;
use super::{ArchiveJobs, Order, Progress, Result, STEP};
use crate::metrics;
use crate::segment::object_key;

/// Most rows looked up at once.
const PAGE: usize = 256;

/// Most problems that are told one by one.
const PROBLEMS: usize = 1000;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerifyOptions {
    /// Which part of the segments, and of the conversations' copies, is read, in percent; of the others only presence and
    /// size are looked at.
    pub sample_percent: f64,
}

impl VerifyOptions {
    /// Whether the next one is of the part that is read.
    fn samples(self) -> bool {
        rand::random::<f64>() * 100.0 < self.sample_percent
    }
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

impl Problem {
    pub(super) fn of_segment(shard: &Shard, id: SegmentId, problem: &str) -> Self {
        Self {
            shard: shard.name().clone(),
            segment: Some(object_key(id).to_string()),
            conversation_id: None,
            problem: problem.into(),
        }
    }

    pub(super) fn of_conversation(
        shard: &Shard,
        id: ConversationId,
        problem: &impl ToString,
    ) -> Self {
        Self {
            shard: shard.name().clone(),
            segment: None,
            conversation_id: Some(id),
            problem: problem.to_string(),
        }
    }
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
    /// Those of them that are terms of segments, which searches use; `search index verify` reads them.
    pub terms: u64,
    /// Objects that nothing names; `gc` deletes them after their grace period.
    pub orphans: u64,
    /// Objects under the prefix that are neither segments nor terms.
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
        metrics::VERIFY_FAILURES.increment(1);
        tracing::error!(shard = %problem.shard, segment = problem.segment, problem = problem.problem, "the archive is not as it should be");
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS {
            self.problems.push(problem);
        }
    }
}

impl ArchiveJobs {
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
        report.terms = orphans.of_terms;
        report.foreign = orphans.foreign;
        report.orphans = (orphans.due.len() + orphans.terms.len()) as u64 + orphans.in_grace;
        for shard in self.shards(order)? {
            progress.update(|now| {
                now.shard = Some(shard.name().clone());
                now.phase = "verifying";
            });
            self.verify_segments(&shard, options, (&mut report, progress))
                .await?;
            self.verify_conversations(&shard, options, (&mut report, progress))
                .await?;
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
        while let Some(id) = next_segment(shard, after).await? {
            after = Some(id);
            report.segments += 1;
            let is_read = options.samples();
            let Some(look) = self.look_at_segment(shard, id, is_read).await? else {
                continue;
            };
            report.read += u64::from(is_read);
            report.frames += look.frames;
            report.messages += look.messages;
            progress.update(|now| now.messages = report.messages);
            for fault in look.faults {
                report.add(Problem::of_segment(shard, id, fault.text()));
            }
        }
        Ok(())
    }

    async fn verify_conversations(
        &self,
        shard: &Arc<Shard>,
        options: VerifyOptions,
        (report, progress): (&mut VerifyReport, &Progress),
    ) -> Result<()> {
        let mut after = None;
        loop {
            let heads = next_heads(shard, after).await?;
            let Some(last) = heads.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for head in heads.iter().filter(|head| head.deleted_at.is_none()) {
                report.conversations += 1;
                if let Some(problem) = missing(shard, head).await? {
                    report.add(problem);
                }
                if options.samples() {
                    for fault in self.look_at_copies(shard, head.id).await? {
                        report.add(Problem::of_conversation(shard, head.id, &fault));
                    }
                }
            }
            progress.update(|now| now.conversations = report.conversations);
        }
    }
}

/// The next segment that a shard's index names.
pub(super) async fn next_segment(
    shard: &Shard,
    after: Option<SegmentId>,
) -> Result<Option<SegmentId>> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    Ok(archive::next_named_segment(&mut connection, after).await?)
}

/// The next conversations of a shard.
pub(super) async fn next_heads(shard: &Shard, after: Option<ConversationId>) -> Result<Vec<Head>> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    Ok(archive::heads_after(&mut connection, after, PAGE).await?)
}

/// What a conversation lacks, if anything.
pub(super) async fn missing(shard: &Shard, head: &Head) -> Result<Option<Problem>> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    let mut missing = missing_messages(&mut connection, head).await?;
    if missing.is_some() {
        // Rows may have gone from one tier to the other between the two looks, or all of them with their conversation.
        connection.begin_snapshot().await?;
        missing = missing_messages(&mut connection, head).await?;
        let is_there = head::is_there(&mut OwnedReader::for_job(&mut connection), head.id).await?;
        missing = missing.filter(|_| is_there);
        connection.commit().await?;
    }
    Ok(missing.map(|(first, last, count)| {
        let problem =
            format!("{count} of the messages {first} to {last} are neither hot nor archived");
        Problem::of_conversation(shard, head.id, &problem)
    }))
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
