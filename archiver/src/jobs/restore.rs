//! A conversation back to hot rows: for a database that is to be copied, or somebody who will read all of it.
//!
//! Of several copies of a message the newest becomes hot (INV-COPY). The copies stay, and hot rows count before them. The
//! next archive job takes it away again, unless it is under a
//! hold. A crash leaves part of it hot; restoring again goes on.

use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{self, Copies, Lease, check_lease};
use backscroll_shard::cold_tier::ColdTier as _;
use backscroll_shard::head;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;
use backscroll_shard::owned::OwnedReader;
use serde::Serialize;

use super::{
    ArchiveError, ArchiveJobs, Order, Progress, Result, STEP, ShardOutcome, Step, transaction,
};

/// What a restoration did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFigures {
    /// Messages that are hot again.
    pub messages: u64,
}

impl ArchiveJobs {
    /// Makes every archived message of a conversation a hot row again.
    ///
    /// # Errors
    /// [`ArchiveError::NothingArchived`] when there is no such conversation, or none of its messages is archived; when the
    /// shard is away.
    pub async fn restore(
        &self,
        order: &Order,
        conversation: ConversationId,
        progress: &Progress,
    ) -> Result<ShardOutcome<RestoreFigures>> {
        let map = self.router.map();
        let name = map.locate(conversation.owner_key()).shard.clone();
        let shard = self.router.shard(&name)?.clone();
        require_archived(&shard, conversation).await?;
        progress.update(|now| {
            now.shard = Some(name.clone());
            now.phase = "restoring";
        });
        let work = async |lease: &Lease, figures: &mut RestoreFigures| {
            self.restore_leased(&shard, lease, conversation, (figures, progress))
                .await
        };
        Ok(self.job(&shard, ("restore", order), work).await)
    }

    async fn restore_leased(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        conversation: ConversationId,
        (figures, progress): (&mut RestoreFigures, &Progress),
    ) -> Result<()> {
        let batch = u64::from(self.settings.delete_batch.max(1));
        let mut after = Seq(0);
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let next = archive::next_archived(&mut connection, conversation, after).await?;
            drop(connection);
            let Some((mut first, end)) = next else {
                return Ok(());
            };
            while first <= end {
                let last = Seq(end.0.min(first.0 + batch - 1));
                let messages = self.archived(shard, conversation, (first, last)).await?;
                let restored = transaction(shard, async |connection| {
                    check_lease(connection, lease).await?;
                    archive::restore_rows(connection, conversation, messages.clone()).await
                })
                .await?;
                self.passed(Step::Restored);
                figures.messages += restored;
                progress.update(|now| now.messages += restored);
                first = last.next();
            }
            after = end;
        }
    }

    /// The newest archived copies of messages. None is archived or dropped meanwhile, since the job holds the lease.
    pub(super) async fn archived(
        &self,
        shard: &Shard,
        conversation: ConversationId,
        (first, last): (Seq, Seq),
    ) -> Result<Vec<StoredMessage>> {
        let deadline = Instant::now() + STEP;
        let mut connection = shard.reader(deadline).await?;
        let hot = archive::hot_revs(&mut connection, conversation, (first, last)).await?;
        let copies = Copies::find(&mut connection, conversation, (first, last)).await?;
        drop(connection);
        let seqs = (first.0..=last.0).map(Seq);
        let cold = seqs.filter(|seq| !hot.contains_key(seq)).collect();
        let plan = copies.plan(&cold);
        let parts = plan.parts();
        let reads = self.frames.read(conversation, &parts, deadline).await;
        let newest = plan.newest(reads)?;
        match newest.failure.filter(|_| !newest.lost.is_empty()) {
            Some(error) => Err(error.into()),
            None => Ok(newest.messages.into_values().collect()),
        }
    }
}

/// Whether there is anything to restore.
async fn require_archived(shard: &Shard, conversation: ConversationId) -> Result<()> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    let nothing = |why: String| Err(ArchiveError::NothingArchived(why));
    if !head::is_there(&mut OwnedReader::for_job(&mut connection), conversation).await? {
        let shard = shard.name();
        return nothing(format!(
            "there is no conversation {conversation} on shard {shard}, or it is deleted; nothing was restored"
        ));
    }
    match archive::next_archived(&mut connection, conversation, Seq(0)).await? {
        Some(_) => Ok(()),
        None => nothing(format!(
            "no message of conversation {conversation} is archived; there is nothing to restore"
        )),
    }
}
