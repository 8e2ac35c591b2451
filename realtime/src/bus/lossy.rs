//! A bus that loses pushes, for tests: clients end with the log, whatever is lost (INV-PUSH).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use backscroll_shard::ids::{ConversationId, Rev};
use twox_hash::XxHash3_64;

use crate::bus::{Bus, BusUnavailable, Problem, Receiver};
use crate::push::{Push, Topic};

/// Withholds a share of the pushes from its receiver, whichever node published them.
///
/// The seed and a change's topic, kind and rev decide whether it is lost, not the time at which it arrives, so that a run can
/// be repeated. For a push without a rev, the number of such pushes before it takes the place of the rev.
pub struct LossyBus {
    inner: Arc<dyn Bus>,
    fate: Fate,
    receiver: OnceLock<Arc<LossyReceiver>>,
}

#[derive(Clone)]
struct Fate {
    loss: f64,
    seed: u64,
    stateful: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
}

struct LossyReceiver {
    fate: Fate,
    receiver: Weak<dyn Receiver>,
}

impl LossyBus {
    /// `inner` without the share `loss` (0 to 1) of its pushes.
    #[must_use]
    pub fn new(inner: Arc<dyn Bus>, loss: f64, seed: u64) -> Self {
        Self {
            inner,
            fate: Fate {
                loss,
                seed,
                stateful: Arc::default(),
                lost: Arc::default(),
            },
            receiver: OnceLock::new(),
        }
    }

    /// How many pushes were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.fate.lost.load(Ordering::Relaxed)
    }
}

impl Fate {
    fn loses(&self, topic: &Topic, push: &Push) -> bool {
        let number = if push.kind.is_durable() {
            push.rev.0
        } else {
            self.stateful.fetch_add(1, Ordering::Relaxed)
        };
        let identity = format!("{topic} {:?} {number}", push.kind);
        let drawn = XxHash3_64::oneshot_with_seed(self.seed, identity.as_bytes());
        #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
        let loses = (drawn as f64 / u64::MAX as f64) < self.loss;
        if loses {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        loses
    }
}

impl Receiver for LossyReceiver {
    fn listens(&self, topic: &Topic) -> bool {
        let receiver = self.receiver.upgrade();
        receiver.is_some_and(|receiver| receiver.listens(topic))
    }

    fn received(&self, topic: Topic, push: Push) {
        if !self.fate.loses(&topic, &push)
            && let Some(receiver) = self.receiver.upgrade()
        {
            receiver.received(topic, push);
        }
    }

    fn interrupted(&self) {
        if let Some(receiver) = self.receiver.upgrade() {
            receiver.interrupted();
        }
    }
}

#[async_trait]
impl Bus for LossyBus {
    fn attach(&self, receiver: Weak<dyn Receiver>) {
        let lossy = self.receiver.get_or_init(|| {
            Arc::new(LossyReceiver {
                fate: self.fate.clone(),
                receiver,
            })
        });
        let lossy: Weak<LossyReceiver> = Arc::downgrade(lossy);
        self.inner.attach(lossy);
    }

    fn may_have_listeners(&self, topic: &Topic) -> bool {
        self.inner.may_have_listeners(topic)
    }

    fn publish(&self, topic: &Topic, push: &Push) {
        self.inner.publish(topic, push);
    }

    async fn subscribe(&self, topic: Topic) -> Result<(), BusUnavailable> {
        self.inner.subscribe(topic).await
    }

    fn unsubscribe(&self, topic: &Topic) {
        self.inner.unsubscribe(topic);
    }

    async fn recent(&self, conversation: ConversationId, after: Rev) -> Vec<Push> {
        self.inner.recent(conversation, after).await
    }

    fn silence(&self) -> Option<Duration> {
        self.inner.silence()
    }

    fn problem(&self) -> Option<Problem> {
        self.inner.problem()
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::UserKey;
    use serde_json::json;
    use std::sync::Mutex;

    use super::*;
    use crate::bus::in_process::InProcessBus;
    use crate::push::PushKind;

    #[derive(Default)]
    struct Received(Mutex<Vec<Rev>>);

    impl Receiver for Received {
        fn listens(&self, _topic: &Topic) -> bool {
            true
        }

        fn received(&self, _topic: Topic, push: Push) {
            self.0.lock().unwrap().push(push.rev);
        }

        fn interrupted(&self) {}
    }

    fn received(loss: f64, seed: u64) -> Vec<Rev> {
        let bus = LossyBus::new(Arc::new(InProcessBus::default()), loss, seed);
        let receiver = Arc::new(Received::default());
        let attached: Weak<Received> = Arc::downgrade(&receiver);
        bus.attach(attached);
        let topic = Topic::Conversation(ConversationId::new(UserKey(7), 9));
        for rev in 1..=1000 {
            bus.publish(
                &topic,
                &Push::change(PushKind::NewMessage, Rev(rev), &json!({})),
            );
        }
        let revs = receiver.0.lock().unwrap().clone();
        assert_eq!(revs.len() as u64 + bus.lost(), 1000);
        revs
    }

    #[test]
    fn the_seed_decides_what_is_lost() {
        assert_eq!(received(0.0, 1).len(), 1000);
        assert_eq!(received(1.0, 1).len(), 0);
        let once = received(0.1, 1);
        assert!((850..950).contains(&once.len()), "{}", once.len());
        assert_eq!(received(0.1, 1), once);
        assert_ne!(received(0.1, 2), once);
    }
}
