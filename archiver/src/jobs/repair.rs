//! Puts right what the objects still hold: for damage that older versions of this program, or a restored backup, have left.
//!
//! Segment by segment, what the index says is replaced by what the object has; then, conversation by conversation, the copies
//! of messages are compared: a hot row that is older than an archived copy takes that copy's content, a deleted message whose
//! content has come back is deleted again, and content of deleted messages that is still archived is put down for erasure
//! (INV-COPY, INV-ERASE). What cannot be put right is told of. Each is a transaction of its own under the job's lease, and
//! is decided again in it; after a crash the next repair goes on with what is left. A dry run looks without a lease.

use std::sync::Arc;

use backscroll_shard::archive::{self, Lease, SegmentId, check_lease};
use backscroll_shard::ids::ConversationId;
use backscroll_shard::node::Shard;
use serde::Serialize;

use super::inspect::{MessageFault, MessageFaultKind};
use super::inspect_segment::SegmentFault;
use super::verify::{Problem, missing, next_heads, next_segment};
use super::{ArchiveJobs, Order, Progress, Result, ShardOutcome, transaction};
use crate::segment::object_key;

/// Most problems that are told one by one, of each sort.
const PROBLEMS: usize = 1000;

/// What a repair did on one shard, or, in a dry run, would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairFigures {
    /// Segments that were looked at.
    pub segments: u64,
    /// Conversations that were looked at.
    pub conversations: u64,
    /// What was put right: the first of them.
    pub mended: Vec<Problem>,
    /// How many were put right.
    pub mended_count: u64,
    /// What could not be put right: the first of them.
    pub left: Vec<Problem>,
    /// How many could not be put right.
    pub left_count: u64,
}

impl RepairFigures {
    fn add(&mut self, problem: Problem, is_mended: bool) {
        let (list, count) = if is_mended {
            (&mut self.mended, &mut self.mended_count)
        } else {
            (&mut self.left, &mut self.left_count)
        };
        *count += 1;
        if list.len() < PROBLEMS {
            list.push(problem);
        }
    }
}

impl ArchiveJobs {
    /// Mends the archive. With `is_dry_run` it changes nothing, and says what it would mend of what it sees now.
    ///
    /// # Errors
    /// When there is no such shard, or, in a dry run, a shard or the object store cannot be read.
    pub async fn repair(
        &self,
        order: &Order,
        is_dry_run: bool,
        progress: &Progress,
    ) -> Result<Vec<ShardOutcome<RepairFigures>>> {
        let mut outcomes = Vec::new();
        for shard in self.shards(order)? {
            progress.update(|now| {
                now.shard = Some(shard.name().clone());
                now.phase = "repairing";
            });
            if is_dry_run {
                let mut figures = RepairFigures::default();
                self.repair_shard(&shard, None, (&mut figures, progress))
                    .await?;
                outcomes.push(ShardOutcome {
                    shard: shard.name().clone(),
                    figures,
                    error: None,
                });
                continue;
            }
            let work = async |lease: &Lease, figures: &mut RepairFigures| {
                self.repair_shard(&shard, Some(lease), (figures, progress))
                    .await
            };
            outcomes.push(self.job(&shard, ("repair", order), work).await);
        }
        Ok(outcomes)
    }

    async fn repair_shard(
        &self,
        shard: &Arc<Shard>,
        lease: Option<&Lease>,
        (figures, progress): (&mut RepairFigures, &Progress),
    ) -> Result<()> {
        let mut after = None;
        while let Some(id) = next_segment(shard, after).await? {
            after = Some(id);
            figures.segments += 1;
            self.repair_segment(shard, lease, id, figures).await?;
        }
        let mut after = None;
        loop {
            let heads = next_heads(shard, after).await?;
            let Some(last) = heads.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for head in heads.iter().filter(|head| head.deleted_at.is_none()) {
                figures.conversations += 1;
                for fault in self.look_at_copies(shard, head.id).await? {
                    let is_mended = mend(shard, lease, head.id, &fault).await?;
                    let problem = Problem::of_conversation(shard, head.id, &fault);
                    figures.add(problem, is_mended);
                }
                if let Some(problem) = missing(shard, head).await? {
                    figures.add(problem, false);
                }
            }
            progress.update(|now| now.conversations = figures.conversations);
        }
    }

    /// Makes the index say what a segment has, if it does not.
    async fn repair_segment(
        &self,
        shard: &Arc<Shard>,
        lease: Option<&Lease>,
        id: SegmentId,
        figures: &mut RepairFigures,
    ) -> Result<()> {
        let Some(look) = self.look_at_segment(shard, id, true).await? else {
            return Ok(());
        };
        // The index is made to follow an object only when all of the object can be read.
        let is_object = |fault: &SegmentFault| matches!(fault, SegmentFault::Object(_));
        let is_whole = !look.faults.iter().any(is_object);
        if let Some(lease) = lease.filter(|_| is_whole && !look.faults.is_empty()) {
            self.enter_again(shard, lease, id).await?;
        }
        for fault in &look.faults {
            figures.add(Problem::of_segment(shard, id, fault.text()), is_whole);
        }
        Ok(())
    }

    async fn enter_again(&self, shard: &Arc<Shard>, lease: &Lease, id: SegmentId) -> Result<()> {
        let object = self.objects.head(&object_key(id)).await?;
        let (header, runs, messages) = self.scan(&object, id, |_, _| {}).await?;
        let leases = [(shard.clone(), lease.clone())];
        self.enter(&leases, (id, &object, messages), &header, runs)
            .await
    }
}

/// Puts a message right, and says whether it is; without a lease, whether it can be.
async fn mend(
    shard: &Arc<Shard>,
    lease: Option<&Lease>,
    id: ConversationId,
    fault: &MessageFault,
) -> Result<bool> {
    if matches!(fault.kind, MessageFaultKind::CopiesDiffer { .. }) {
        return Ok(false);
    }
    let Some(lease) = lease else { return Ok(true) };
    let mended = transaction(shard, async |connection| {
        let now = check_lease(connection, lease).await?;
        match &fault.kind {
            MessageFaultKind::OldHot { newest, .. } => {
                archive::take_newer(connection, id, newest, now).await
            }
            MessageFaultKind::Undeleted { newest } => {
                archive::delete_again(connection, id, newest, now).await
            }
            MessageFaultKind::NotErased => {
                archive::erase_anew(connection, id, fault.seq, now).await?;
                Ok(true)
            }
            MessageFaultKind::CopiesDiffer { .. } => Ok(false),
        }
    });
    Ok(mended.await?)
}
