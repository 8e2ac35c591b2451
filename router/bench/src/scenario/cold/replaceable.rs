//! A cold tier whose cache can be emptied.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use backscroll_archiver::object_store::ObjectStore;
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_archiver::tier::Tier;
use backscroll_shard::cold_tier::{ColdPart, ColdTier};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;

/// A tier that can be replaced by one with nothing in its cache.
pub(super) struct Replaceable {
    objects: Arc<dyn ObjectStore>,
    tier: Mutex<(Tier, ReadAhead)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadAhead {
    On,
    /// What a page itself needs is all that is fetched.
    Off,
}

impl Replaceable {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        let tier = Tier::new(objects.clone(), &ArchiveSettings::default());
        Self {
            objects,
            tier: Mutex::new((tier, ReadAhead::On)),
        }
    }

    /// From now on there is nothing in the cache.
    pub(super) fn replace(&self, ahead: ReadAhead) {
        let tier = Tier::new(self.objects.clone(), &ArchiveSettings::default());
        *self.tier.lock().unwrap_or_else(PoisonError::into_inner) = (tier, ahead);
    }

    fn tier(&self) -> (Tier, ReadAhead) {
        self.tier
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[async_trait]
impl ColdTier for Replaceable {
    async fn read(
        &self,
        conversation: ConversationId,
        parts: &[ColdPart],
        deadline: Instant,
    ) -> Vec<backscroll_shard::error::Result<Vec<StoredMessage>>> {
        let (tier, _) = self.tier();
        tier.read(conversation, parts, deadline).await
    }

    fn read_ahead(&self, shard: &Arc<Shard>, conversation: ConversationId, before: Seq) {
        let (tier, ahead) = self.tier();
        if ahead == ReadAhead::On {
            tier.read_ahead(shard, conversation, before);
        }
    }
}
