//! Taking the hot rows of a published segment away, in bounded batches.
//!
//! Only rows go that are still as they were archived (INV-TIER). Of those that stay, because they were changed meanwhile or
//! their conversation is under a hold, what was deleted by its author has content in the archive now, and is put down for
//! erasure (INV-ERASE). A crash leaves rows in both tiers, which readers do not notice, and the next run goes on.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use backscroll_shard::archive::{self, ArchivedRun, Lease, SegmentId, SegmentState, check_lease};
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::node::Shard;
use futures_util::future::try_join_all;

use super::throttle::Pace;
use super::{ArchiveJobs, Progress, Result, STEP, Step, transaction};

/// How many transactions delete rows at once.
const DELETES_AT_ONCE: usize = 2;
/// Most runs looked up at once, and heads brought up to date in one transaction.
const PAGE: usize = 128;

/// Which heads are not brought up to date when a segment is settled.
pub(super) struct Heads<'a> {
    /// That of the conversation which goes on in the next segment: it would be a candidate again while its other rows are
    /// still there.
    pub(super) continues: Option<ConversationId>,
    /// Those of conversations with rows that stay, in this segment or in one before; settling adds to them.
    pub(super) later: &'a mut BTreeSet<ConversationId>,
}

/// Hot rows to be deleted: from the first to the last, as far as their rev is not beyond this one.
type Stretch = (ConversationId, (Seq, Seq), Rev);

impl ArchiveJobs {
    /// Deletes the hot rows of a published segment and says how many there were. Those of a conversation that was put
    /// under a hold meanwhile stay.
    pub(super) async fn settle(
        &self,
        shard: &Shard,
        lease: &Lease,
        (id, heads): (SegmentId, Heads<'_>),
        pace: &mut Pace<'_>,
    ) -> Result<u64> {
        let throttle = pace.throttle;
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
            let stretch = |(id, run): &(ConversationId, ArchivedRun)| {
                (*id, (run.first_seq, run.last_seq), run.last_rev)
            };
            let (stay, go): (Vec<Stretch>, Vec<Stretch>) =
                runs.iter().map(stretch).partition(|(id, ..)| is_held(id));
            self.stay(shard, lease, &stay).await?;
            heads.later.extend(stay.iter().map(|(id, ..)| *id));
            let mut stretches = VecDeque::from(go);
            while !stretches.is_empty() {
                let begin = Instant::now();
                let most = throttle.amount(self.settings.delete_batch as usize) as u64;
                let batches: Vec<Vec<Stretch>> =
                    std::iter::repeat_with(|| cut(&mut stretches, most))
                        .take(throttle.at_once(DELETES_AT_ONCE))
                        .collect();
                let deletes = batches
                    .iter()
                    .map(|batch| self.delete(shard, lease, batch, throttle.progress));
                let mut now = 0;
                for (gone, left) in try_join_all(deletes).await? {
                    now += gone;
                    heads.later.extend(left);
                }
                deleted += now;
                pace.pause(now, begin).await;
            }
            let mut conversations: Vec<ConversationId> = runs.iter().map(|(id, _)| *id).collect();
            conversations.dedup();
            conversations.retain(|id| Some(*id) != heads.continues && !heads.later.contains(id));
            self.settle_heads(shard, lease, &conversations).await?;
        }
        self.passed(Step::Emptied);
        transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            let step = (SegmentState::Published, SegmentState::Settled);
            archive::change_segment(connection, id, step, now).await
        })
        .await?;
        self.passed(Step::Settled);
        Ok(deleted)
    }

    pub(super) async fn settle_heads(
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

    /// Deletes rows and says how many, and which conversations may have some left.
    async fn delete(
        &self,
        shard: &Shard,
        lease: &Lease,
        batch: &[Stretch],
        progress: &Progress,
    ) -> Result<(u64, Vec<ConversationId>)> {
        if batch.is_empty() {
            return Ok((0, Vec::new()));
        }
        let (deleted, left) = transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            let (mut deleted, mut left) = (0, Vec::new());
            for (conversation, range, rev) in batch {
                let gone =
                    archive::delete_run(connection, *conversation, *range, *rev, now).await?;
                deleted += gone;
                if gone < range.1.0 + 1 - range.0.0 {
                    left.push(*conversation);
                }
            }
            Ok((deleted, left))
        })
        .await?;
        self.passed(Step::Deleted);
        progress.update(|now| now.deleted += deleted);
        Ok((deleted, left))
    }

    /// Rows of these stretches stay hot for now; what was deleted of them meanwhile is put down for erasure.
    async fn stay(&self, shard: &Shard, lease: &Lease, stretches: &[Stretch]) -> Result<()> {
        if stretches.is_empty() {
            return Ok(());
        }
        transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            for (conversation, range, rev) in stretches {
                archive::request_erasures(connection, *conversation, *range, *rev, now).await?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }
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
