//! The connection that receives: this node's subscriptions, and the pushes that arrive.
//!
//! The set of wanted topics is the truth, and each connection is brought to agree with it. A new connection replays the whole
//! set; after that, one task sends the changes in batches, so that no two commands about a topic can overtake each other.
//! Without a connection only the set changes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::{PushInfo, PushKind, RedisResult, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{timeout, timeout_at};

use super::line::{Attempts, Line, Live};
use super::names::Names;
use super::pulse::Pulse;
use super::wire;
use crate::bus::{BusUnavailable, Problem, Receiver};
use crate::metrics;
use crate::push::Topic;

/// Most topics in one command.
const BATCH: usize = 512;

/// Receives this node's pushes.
pub(super) struct Listener {
    pub(super) names: Names,
    pub(super) origin: String,
    pub(super) line: Line,
    pub(super) pulse: Arc<Pulse>,
    pub(super) receiver: OnceLock<Weak<dyn Receiver>>,
    /// How long Redis may take to confirm a subscription.
    timeout: Duration,
    topics: Mutex<Subscriptions>,
    changed: Notify,
}

#[derive(Default)]
struct Subscriptions {
    all: HashMap<Topic, State>,
    /// Topics about which the connection may disagree with `all`; each once.
    changed: VecDeque<Topic>,
    /// Whether there is a connection.
    connected: bool,
    confirmed: usize,
}

#[derive(Default)]
struct State {
    wanted: bool,
    confirmed: bool,
    /// Whether it is in `Subscriptions::changed`.
    changed: bool,
    /// A caller gave up waiting: the receiver has to be interrupted once Redis confirms.
    owed: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Subscriptions {
    fn change(&mut self, topic: &Topic) -> bool {
        let Some(state) = self.all.get_mut(topic) else {
            return false;
        };
        if state.changed || !self.connected {
            return false;
        }
        state.changed = true;
        self.changed.push_back(topic.clone());
        true
    }

    /// The next changes: topics to subscribe to, and topics to unsubscribe from.
    fn next_batch(&mut self) -> (Vec<Topic>, Vec<Topic>) {
        let (mut on, mut off) = (Vec::new(), Vec::new());
        while on.len().max(off.len()) < BATCH
            && let Some(topic) = self.changed.pop_front()
        {
            let Some(state) = self.all.get_mut(&topic) else {
                continue;
            };
            state.changed = false;
            match (state.wanted, state.confirmed) {
                (true, false) => on.push(topic),
                (false, confirmed) => {
                    self.all.remove(&topic);
                    if confirmed {
                        self.confirmed -= 1;
                        off.push(topic);
                    }
                }
                (true, true) => {}
            }
        }
        (on, off)
    }

    /// Redis has confirmed these. Says whether a caller had given up waiting for one of them.
    fn confirm(&mut self, topics: &[Topic]) -> bool {
        let mut owed = false;
        for topic in topics {
            if let Some(state) = self.all.get_mut(topic)
                && !state.confirmed
            {
                state.confirmed = true;
                self.confirmed += 1;
                owed |= std::mem::take(&mut state.owed);
                for waiting in state.waiting.drain(..) {
                    let _ = waiting.send(());
                }
            }
        }
        owed
    }

    /// The connection is lost, and all subscriptions with it.
    fn disconnected(&mut self) {
        self.all.retain(|_, state| state.wanted);
        for state in self.all.values_mut() {
            (state.confirmed, state.changed) = (false, false);
        }
        self.changed.clear();
        (self.connected, self.confirmed) = (false, 0);
    }

    /// There is a new connection: all topics have to be subscribed to again.
    fn connected(&mut self) {
        self.connected = true;
        self.changed = self.all.keys().cloned().collect();
        for state in self.all.values_mut() {
            (state.changed, state.owed) = (true, false); // the receiver is interrupted anyway once this is done
        }
    }
}

impl Listener {
    pub(super) fn new(
        names: Names,
        origin: String,
        line: Line,
        pulse: Arc<Pulse>,
        timeout: Duration,
    ) -> Self {
        Self {
            names,
            origin,
            line,
            pulse,
            receiver: OnceLock::new(),
            timeout,
            topics: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn topics(&self) -> MutexGuard<'_, Subscriptions> {
        // No change panics half-way, so the set behind a poisoned lock is whole.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn receiver(&self) -> Option<Arc<dyn Receiver>> {
        self.receiver.get()?.upgrade()
    }

    pub(super) async fn subscribe(&self, topic: Topic) -> Result<(), BusUnavailable> {
        let deadline = Instant::now() + self.timeout;
        let confirmation = {
            let mut topics = self.topics();
            let state = topics.all.entry(topic.clone()).or_default();
            state.wanted = true;
            if state.confirmed {
                return Ok(());
            }
            let (confirm, confirmation) = oneshot::channel();
            state.waiting.push(confirm);
            topics.change(&topic);
            confirmation
        };
        self.changed.notify_one();
        match timeout_at(deadline.into(), confirmation).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(BusUnavailable("it was unsubscribed from".to_owned())),
            Err(_) => self.give_up(&topic),
        }
    }

    /// Ends the wait for a confirmation, which may have come at the last moment.
    fn give_up(&self, topic: &Topic) -> Result<(), BusUnavailable> {
        let mut topics = self.topics();
        match topics.all.get_mut(topic) {
            Some(state) if state.confirmed => Ok(()),
            Some(state) => {
                state.owed = true;
                state.waiting.retain(|waiting| !waiting.is_closed());
                Err(BusUnavailable("Redis does not confirm in time".to_owned()))
            }
            None => Err(BusUnavailable("it was unsubscribed from".to_owned())),
        }
    }

    pub(super) fn unsubscribe(&self, topic: &Topic) {
        let mut topics = self.topics();
        if !topics.connected {
            topics.all.remove(topic);
            return;
        }
        if let Some(state) = topics.all.get_mut(topic) {
            (state.wanted, state.owed) = (false, false);
            state.waiting.clear();
        }
        if topics.change(topic) {
            drop(topics);
            self.changed.notify_one();
        }
    }

    /// Receives, on one connection after the other, until the future is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut attempts = Attempts::default();
        self.topics().disconnected(); // the run before this one may have ended while it was connected
        loop {
            let listener = Arc::downgrade(&self);
            let on_push = move |generation, info| {
                if let Some(listener) = listener.upgrade() {
                    listener.received(generation, info);
                }
            };
            let live = self.line.connect(&mut attempts, on_push).await;
            if let Err(error) = self.follow(live).await {
                self.line.failed(Problem::of(&error));
            }
            self.topics().disconnected();
            metrics::BUS_SUBSCRIPTIONS.set(0.0);
        }
    }

    /// Brings a new connection to agree with the set, and keeps it in agreement until it is lost.
    async fn follow(&self, mut live: Live) -> RedisResult<()> {
        self.topics().connected();
        let canary = self.names.canary(&self.origin);
        self.confirmed_in_time(live.connection.subscribe(&canary))
            .await?;
        while self.apply_changes(&mut live).await? > 0 {}
        if let Some(receiver) = self.receiver() {
            receiver.interrupted();
        }
        let generation = live.generation;
        let serving = self.line.serve(&live);
        tokio::pin!(serving);
        let mut applying = live.clone();
        loop {
            tokio::select! {
                () = &mut serving => return Ok(()),
                () = self.changed.notified() => {}
            }
            let applied = async {
                while self.apply_changes(&mut applying).await? > 0 {}
                Ok(())
            };
            tokio::select! {
                () = &mut serving => return Ok(()),
                applied = applied => if let Err(error) = applied {
                    self.line.lose(generation);
                    return Err(error);
                }
            }
        }
    }

    /// Sends one batch of changes to Redis; returns how many.
    async fn apply_changes(&self, live: &mut Live) -> RedisResult<usize> {
        let (on, off) = self.topics().next_batch();
        let channels = |topics: &[Topic]| -> Vec<String> {
            topics
                .iter()
                .map(|topic| self.names.channel(topic))
                .collect()
        };
        if !off.is_empty() {
            self.confirmed_in_time(live.connection.unsubscribe(channels(&off)))
                .await?;
        }
        if !on.is_empty() {
            self.confirmed_in_time(live.connection.subscribe(channels(&on)))
                .await?;
        }
        let (owed, confirmed) = {
            let mut topics = self.topics();
            (topics.confirm(&on), topics.confirmed)
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::BUS_SUBSCRIPTIONS.set(confirmed as f64);
        if owed && let Some(receiver) = self.receiver() {
            receiver.interrupted();
        }
        Ok(on.len() + off.len())
    }

    async fn confirmed_in_time(
        &self,
        confirmation: impl Future<Output = RedisResult<()>>,
    ) -> RedisResult<()> {
        match timeout(self.timeout, confirmation).await {
            Ok(confirmed) => confirmed,
            Err(elapsed) => Err(std::io::Error::from(elapsed).into()),
        }
    }

    fn received(&self, generation: u64, info: PushInfo) {
        match (info.kind, info.data.as_slice()) {
            (PushKind::Disconnection, _) => self.line.lose(generation),
            (PushKind::Message, [Value::BulkString(channel), Value::BulkString(payload)]) => {
                let read = self.message(channel, payload);
                if read.is_none() {
                    metrics::BUS_UNDECODABLE.increment(1);
                    tracing::debug!("a message from Redis cannot be read");
                }
            }
            _ => {}
        }
    }

    /// Takes a message of a channel; none when it cannot be read.
    fn message(&self, channel: &[u8], payload: &[u8]) -> Option<()> {
        let channel = std::str::from_utf8(channel).ok()?;
        let (origin, rest) = wire::origin(payload)?;
        let Some(topic) = self.names.topic(channel) else {
            return self.pulse.receive(origin, rest);
        };
        if origin == self.origin {
            return Some(()); // the receiver had the push before it was published
        }
        let push = wire::push(rest)?;
        metrics::BUS_RECEIVED.increment(1);
        if let Some(receiver) = self.receiver() {
            receiver.received(topic, push);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: usize) -> Topic {
        format!("u:{n}").parse().unwrap()
    }

    fn want(topics: &mut Subscriptions, topic: &Topic, wanted: bool) {
        topics.all.entry(topic.clone()).or_default().wanted = wanted;
        topics.change(topic);
    }

    #[test]
    fn a_new_connection_subscribes_to_everything_in_batches() {
        let mut topics = Subscriptions::default();
        for n in 0..1000 {
            want(&mut topics, &topic(n), true);
        }
        assert!(topics.next_batch().0.is_empty());

        for _ in 0..2 {
            topics.connected();
            let (first, _) = topics.next_batch();
            let (second, _) = topics.next_batch();
            assert_eq!((first.len(), second.len()), (BATCH, 1000 - BATCH));
            topics.confirm(&first);
            assert_eq!(topics.confirmed, BATCH);
            topics.disconnected();
            assert_eq!((topics.confirmed, topics.changed.len()), (0, 0));
        }
    }

    #[test]
    fn the_last_change_of_a_topic_counts() {
        let mut topics = Subscriptions::default();
        topics.connected();
        let (a, b) = (topic(1), topic(2));
        want(&mut topics, &a, true);
        want(&mut topics, &a, false);
        assert_eq!(topics.next_batch(), (vec![], vec![]));
        assert!(topics.all.is_empty());

        want(&mut topics, &a, true);
        want(&mut topics, &b, true);
        let (on, _) = topics.next_batch();
        want(&mut topics, &a, false); // while Redis is asked to subscribe
        topics.confirm(&on);
        assert_eq!(topics.next_batch(), (vec![], vec![a.clone()]));
        want(&mut topics, &b, false);
        want(&mut topics, &b, true);
        assert_eq!(topics.next_batch(), (vec![], vec![]));
        assert_eq!((topics.all.len(), topics.confirmed), (1, 1));
    }
}
