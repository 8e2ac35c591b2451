//! The bus of several nodes.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backscroll_shard::ids::{ConversationId, Rev};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::line::Line;
use super::listen::Listener;
use super::publish_queue::{PublishQueue, Window};
use super::running::Running;
use super::wire;
use crate::bus::{Bus, BusUnavailable, Problem, Receiver};
use crate::metrics;
use crate::push::{Push, Topic};

/// How long reading a window may take: its reader can also read the log.
const RECENT_DEADLINE: Duration = Duration::from_secs(1);
/// Most windows read at the same time. In a wave of reconnects the other reads wait for their turn until their deadline.
const RECENT_AT_ONCE: usize = 32;

/// Carries pushes between nodes through Redis.
pub struct RedisBus {
    pub(super) listener: Arc<Listener>,
    pub(super) queue: PublishQueue,
    pub(super) commands: Arc<Line>,
    /// A window is trimmed by every change whose rev is a multiple of this; 0 for no windows.
    pub(super) trim_every: u64,
    pub(super) reads: Semaphore,
    pub(super) _running: Arc<Running>,
}

impl RedisBus {
    /// The semaphore that bounds reads of windows.
    pub(super) fn reads() -> Semaphore {
        Semaphore::new(RECENT_AT_ONCE)
    }

    /// The pushes in a conversation's window, as they are.
    async fn window(
        &self,
        conversation: ConversationId,
        deadline: Instant,
    ) -> Result<Vec<Push>, BusUnavailable> {
        let turn = timeout_at(deadline.into(), self.reads.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(BusUnavailable(
                "too many windows are read at the same time".to_owned(),
            ));
        };
        let mut read = redis::pipe();
        let window = self.listener.names.window(conversation);
        read.cmd("LRANGE").arg(window).arg(0).arg(-1);
        let (payloads,): (Vec<Vec<u8>>,) = self.commands.query(&read, deadline).await?;
        let pushes = payloads.iter().filter_map(|payload| {
            let (_origin, rest) = wire::origin(payload)?;
            wire::push(rest)
        });
        Ok(pushes.collect())
    }
}

#[async_trait]
impl Bus for RedisBus {
    fn attach(&self, receiver: Weak<dyn Receiver>) {
        let _ = self.listener.receiver.set(receiver);
    }

    /// Always, as sessions of other nodes may listen.
    fn may_have_listeners(&self, _topic: &Topic) -> bool {
        true
    }

    /// This node's receiver has the push when this returns, with Redis or without.
    fn publish(&self, topic: &Topic, push: &Push) {
        if let Some(receiver) = self.listener.receiver() {
            receiver.received(topic.clone(), push.clone());
        }
        let Some(payload) = wire::encode(&self.listener.origin, push) else {
            return;
        };
        let window = match topic {
            Topic::Conversation(id) if push.kind.is_durable() && self.trim_every > 0 => {
                Some(Window {
                    name: self.listener.names.window(*id),
                    trim: push.rev.0.is_multiple_of(self.trim_every),
                })
            }
            _ => None,
        };
        let channel = self.listener.names.channel(topic);
        self.queue.put(channel, payload.into(), window);
    }

    async fn subscribe(&self, topic: Topic) -> Result<(), BusUnavailable> {
        self.listener.subscribe(topic).await
    }

    fn unsubscribe(&self, topic: &Topic) {
        self.listener.unsubscribe(topic);
    }

    async fn recent(&self, conversation: ConversationId, after: Rev) -> Vec<Push> {
        let read = self.window(conversation, Instant::now() + RECENT_DEADLINE);
        let (found, outcome) = match read.await {
            Ok(found) => {
                let run = wire::run_after(found, after);
                let outcome = if run.is_empty() { "unknown" } else { "found" };
                (run, outcome)
            }
            Err(error) => {
                tracing::debug!(%error, "a conversation's latest changes cannot be read");
                (Vec::new(), "failed")
            }
        };
        metrics::BUS_WINDOWS.with([outcome]).increment(1);
        found
    }

    fn silence(&self) -> Option<Duration> {
        Some(self.listener.pulse.silence())
    }

    fn problem(&self) -> Option<Problem> {
        self.commands.problems.worst()
    }
}
