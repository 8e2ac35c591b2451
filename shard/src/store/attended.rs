//! What runs for every shard of the deployment: its write lanes, its relay, and the tending of its connections.
//!
//! All of it is started with the first call that needs the shard, or by the task that looks for a new map: a shard that joins the
//! deployment while this process runs is served like those that it began with.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use crate::commit_event::CommitListener;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, ShardName};
use crate::lane::Lanes;
use crate::node::Shard;
use crate::relay;
use crate::routing::Router;
use crate::tasks::{Kept, TaskGroup};

/// The tasks of the shards.
pub(super) struct Attended {
    router: Arc<Router>,
    listener: Arc<dyn CommitListener>,
    writers: TaskGroup,
    background: TaskGroup,
    closing: CancellationToken,
    /// Nothing once the store closes: then no more is started.
    shards: RwLock<Option<BTreeMap<ShardName, Started>>>,
}

#[derive(Clone)]
struct Started {
    lanes: Arc<Lanes>,
    hints: relay::Hints,
}

impl Attended {
    pub(super) fn new(
        router: &Arc<Router>,
        listener: &Arc<dyn CommitListener>,
        (writers, background): (&TaskGroup, &TaskGroup),
        closing: &CancellationToken,
    ) -> Self {
        Self {
            router: router.clone(),
            listener: listener.clone(),
            writers: writers.clone(),
            background: background.clone(),
            closing: closing.clone(),
            shards: RwLock::new(Some(BTreeMap::new())),
        }
    }

    /// Starts the tasks of all shards that have none yet.
    pub(super) fn start(&self) {
        for shard in self.router.shards() {
            if matches!(self.started(shard), Err(Error::Closing)) {
                return;
            }
        }
    }

    /// The write lanes of a shard.
    pub(super) fn lanes(&self, shard: &Arc<Shard>) -> Result<Arc<Lanes>> {
        Ok(self.started(shard)?.lanes)
    }

    /// Tells the relay of a shard that a conversation was marked.
    pub(super) fn hint(&self, shard: &Arc<Shard>, id: ConversationId) {
        if let Ok(started) = self.started(shard) {
            started.hints.hint(id);
        }
    }

    /// No lane takes anything new; each ends once its queue is empty.
    pub(super) fn end(&self) {
        self.shards
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    fn started(&self, shard: &Arc<Shard>) -> Result<Started> {
        {
            let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
            let started = shards.as_ref().ok_or(Error::Closing)?.get(shard.name());
            if let Some(started) = started {
                return Ok(started.clone());
            }
        }
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        let shards = shards.as_mut().ok_or(Error::Closing)?;
        let started = shards.entry(shard.name().clone());
        Ok(started.or_insert_with(|| self.begin(shard)).clone())
    }

    fn begin(&self, shard: &Arc<Shard>) -> Started {
        let (hints, inbox) = relay::Hints::channel();
        let settings = &self.router.settings().write;
        let lanes = Lanes::start(shard, settings, &self.listener, &hints, &self.writers);
        let name = format!("relay/{}", shard.name());
        let (router, relayed, stop) = (self.router.clone(), shard.clone(), self.closing.clone());
        let (listener, inbox) = (self.listener.clone(), Kept::new(inbox));
        self.background.supervise(name, &self.closing, move || {
            relay::run(
                router.clone(),
                relayed.clone(),
                listener.clone(),
                inbox.clone(),
                stop.clone(),
            )
        });
        let name = format!("connections/{}", shard.name());
        let (tended, stop) = (shard.clone(), self.closing.clone());
        self.background.supervise(name, &self.closing, move || {
            let (shard, stop) = (tended.clone(), stop.clone());
            async move { shard.tend(&stop).await }
        });
        Started {
            lanes: Arc::new(lanes),
            hints,
        }
    }
}
