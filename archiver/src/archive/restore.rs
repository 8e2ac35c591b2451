//! A conversation back to hot rows: for a database that is to be copied, or somebody who will read all of it.
//!
//! Its archived copies stay, and hot rows win over them. The next archive job takes it away again, unless it is under a
//! hold. A crash leaves part of it hot; restoring again goes on.

use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{self, Lease, check_lease};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;
use serde::Serialize;

use super::{
    Archive, ArchiveError, Order, Progress, Result, STEP, ShardOutcome, Step, transaction,
};
use crate::segment::object_key;

/// Most runs looked up at once.
const PAGE: usize = 64;

/// What a restoration did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFigures {
    /// Messages that are hot again.
    pub messages: u64,
}

impl Archive {
    /// Makes every archived message of a conversation a hot row again.
    ///
    /// # Errors
    /// When the conversation's shard is not known.
    pub async fn restore(
        &self,
        order: &Order,
        conversation: ConversationId,
        progress: &Progress,
    ) -> Result<ShardOutcome<RestoreFigures>> {
        let map = self.router.map();
        let name = map.locate(conversation.owner_key()).shard.clone();
        let shard = self.router.shard(&name)?.clone();
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
        let mut after = None;
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let page =
                archive::runs_of_conversation(&mut connection, conversation, after.as_ref(), PAGE)
                    .await?;
            drop(connection);
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for run in &page {
                let Some(segment) = run.segment else { continue };
                let frame = self.read_frame(segment, run).await?;
                let messages = frame.run(conversation, run.first_seq, run.last_seq);
                let messages = messages
                    .ok_or_else(|| ArchiveError::NotAsWritten(object_key(segment).to_string()))?;
                for chunk in messages.chunks(self.settings.delete_batch as usize) {
                    let restored = transaction(shard, async |connection| {
                        check_lease(connection, lease).await?;
                        let range = (run.first_seq, run.last_seq);
                        let others = archive::locate(connection, conversation, range).await?;
                        let is_newest = |seq: Seq| {
                            !others
                                .iter()
                                .any(|other| other.generation > run.generation && other.holds(seq))
                        };
                        let newest: Vec<StoredMessage> = chunk
                            .iter()
                            .filter(|message| is_newest(message.seq))
                            .cloned()
                            .collect();
                        archive::restore_rows(connection, conversation, newest).await
                    })
                    .await?;
                    self.passed(Step::Restored);
                    figures.messages += restored;
                    progress.update(|now| now.messages += restored);
                }
            }
        }
        Ok(())
    }
}
