//! Where archived messages are read: the archiver plugs in here, so that this crate does not depend on it.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

pub use crate::archive::{ArchivedRun, ColdPart};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Seq};
use crate::message::StoredMessage;
use crate::node::Shard;
pub use crate::search::terms::Pieces;

/// Reads messages that no hot row holds any more (INV-TIER).
#[async_trait]
pub trait ColdTier: Send + Sync {
    /// The messages of each of `parts`, in order and without a hole, or why they were not read:
    /// [`Error::ArchiveUnavailable`] when they could not be before `deadline`, [`Error::ArchiveDamaged`] when what is there
    /// is not what was archived. Parts that are wanted together are best asked for together.
    async fn read(
        &self,
        conversation: ConversationId,
        parts: &[ColdPart],
        deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>>;

    /// Which of `runs` have no message with all of these pieces, as far as their terms tell and can be read before `deadline`.
    /// Of a run that is not ruled out nothing is known.
    async fn ruled_out(
        &self,
        runs: &[ArchivedRun],
        _pieces: &Pieces,
        _deadline: Instant,
    ) -> Vec<bool> {
        vec![false; runs.len()]
    }

    /// A hint: the messages of these few runs are read soon. It must not block.
    fn read_soon(&self, _runs: &[ArchivedRun]) {}

    /// A hint: a reader walks backwards and will soon want the message before `before`. It must not block.
    fn read_ahead(&self, shard: &Arc<Shard>, conversation: ConversationId, before: Seq);
}

/// No archive: every message is hot.
#[derive(Debug, Default)]
pub struct NoArchive;

#[async_trait]
impl ColdTier for NoArchive {
    async fn read(
        &self,
        _conversation: ConversationId,
        parts: &[ColdPart],
        _deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>> {
        parts
            .iter()
            .map(|_| Err(Error::ArchiveUnavailable))
            .collect()
    }

    fn read_ahead(&self, _shard: &Arc<Shard>, _conversation: ConversationId, _before: Seq) {}
}
