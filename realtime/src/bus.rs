//! The seam between those who publish and those who listen.
//!
//! Called by [`Publisher`](crate::publisher::Publisher) after each commit, and by whatever serves a connection: it makes
//! a [`Listener`], subscribes it to its user and to the conversations that are open on the screen, and reads its queue.
//!
//! Upholds INV-BOUND: a listener's queue holds a fixed number of pushes. When it is full, what is published to it is
//! dropped and counted, and the listener is told before anything else; nobody who publishes ever waits. Upholds
//! INV-PUSH by that: a listener either gets every push of its topics, in the order in which they were published, or is
//! told that it lagged. After a crash nothing is left: subscriptions and queues are in memory only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{Mutex, Notify};

use crate::push::{Push, Topic};

/// The bus cannot subscribe just now. Pushes may be missing until it can; the log is complete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bus is unavailable: {0}")]
pub struct BusUnavailable(pub String);

/// Carries pushes from those who publish to those who listen, on this node and on others.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Tells `push` to who listens to `topic`. It never waits; a push that cannot be taken just now is lost, which its
    /// listeners are told or will see by the log.
    fn publish(&self, topic: &Topic, push: &Push);

    /// Whether somebody may be listening to `topic`; where `false`, there is no need to encode a push.
    fn may_be_heard(&self, topic: &Topic) -> bool;

    /// Subscribes `listener` to `topic`; doing so again changes nothing. What is published after this has returned
    /// reaches it: to miss nothing, subscribe first and read the log then.
    ///
    /// # Errors
    /// When it cannot be subscribed just now.
    async fn subscribe(&self, listener: &Listener, topic: Topic) -> Result<(), BusUnavailable>;

    /// Ends a subscription. What waits in the queue stays there. A listener that is dropped needs no call of this.
    async fn unsubscribe(&self, listener: &Listener, topic: &Topic);
}

/// What a listener is told.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Something happened.
    Push(Push),
    /// So many pushes were dropped since the queue was full. Those still in the queue follow, and may be older or newer
    /// than what was lost: read the log.
    Lagged(u64),
}

/// The receiving end of a subscription: one bounded queue for all its topics.
#[derive(Debug)]
pub struct Listener {
    queue: Mutex<mpsc::Receiver<Push>>,
    sender: mpsc::Sender<Push>,
    lag: Arc<Lag>,
}

#[derive(Debug, Default)]
struct Lag {
    lost: AtomicU64,
    told: Notify,
}

impl Listener {
    /// A listener without subscriptions, for which at most `capacity` pushes wait (at least 1).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (sender, queue) = mpsc::channel(capacity.max(1));
        Self {
            queue: Mutex::new(queue),
            sender,
            lag: Arc::default(),
        }
    }

    /// Waits for the next delivery: that pushes were lost comes before any push. The caller bounds the wait. Cancelling
    /// it loses nothing.
    pub async fn next(&self) -> Delivery {
        let mut queue = self.queue.lock().await;
        loop {
            let lost = self.lag.lost.swap(0, Ordering::AcqRel);
            if lost > 0 {
                return Delivery::Lagged(lost);
            }
            tokio::select! {
                biased;
                // A loss counted after the look above left a permit here.
                () = self.lag.told.notified() => {}
                // `None` cannot come, as this listener holds a sender itself.
                Some(push) = queue.recv() => return Delivery::Push(push),
            }
        }
    }

    /// The end that a bus keeps.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        Mailbox {
            sender: self.sender.downgrade(),
            lag: Arc::clone(&self.lag),
        }
    }
}

/// The sending end of a [`Listener`]'s queue, as a bus keeps it. It does not keep the listener alive.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: mpsc::WeakSender<Push>,
    lag: Arc<Lag>,
}

impl Mailbox {
    /// Puts `push` into the queue, or counts it as lost when that is full. `false` when the listener is gone.
    #[must_use]
    pub fn put(&self, push: Push) -> bool {
        let Some(sender) = self.sender.upgrade() else {
            return false;
        };
        match sender.try_send(push) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lag.lost.fetch_add(1, Ordering::AcqRel);
                self.lag.told.notify_one();
                metrics::counter!("backscroll_bus_lost_total").increment(1);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// Whether the listener is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.strong_count() == 0
    }

    /// Whether this is the queue of `listener`.
    #[must_use]
    pub fn is_of(&self, listener: &Listener) -> bool {
        Arc::ptr_eq(&self.lag, &listener.lag)
    }
}
