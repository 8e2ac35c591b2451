//! What waits for one connection: a queue bounded in bytes (INV-BOUND).
//!
//! Filling it never waits. Beyond a quarter of the bound, state replaces what waits of the same kind and
//! user, or is dropped: only its latest counts. At the bound the connection is condemned: it is told so, and heals by resuming
//! (INV-PUSH). An event is encoded once for all connections of a door.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use axum::extract::ws::Utf8Bytes;
use backscroll_shard::model::RawJson;
use engineioxide::Str;
use futures_util::task::AtomicWaker;

use crate::protocol::{Close, Failure};
use crate::push::{Push, Topic};
use crate::socket_io::{self, packet};

/// How many queued items are looked through for one to replace.
const MERGE_LOOKBACK: usize = 64;
/// What an item takes beside its text, about.
const ITEM_OVERHEAD: usize = 64;

/// An event for clients, shared by all who are told.
#[derive(Debug)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// Its data.
    pub data: Arc<RawJson>,
    /// What it replaces, when it is state: what was told before in the same topic of the same user.
    state_of: Option<(Topic, String)>,
    frame: OnceLock<Utf8Bytes>,
    packet: OnceLock<Str>,
}

impl Event {
    /// An event that must arrive, or end the connection.
    #[must_use]
    pub fn new(name: &'static str, data: Arc<RawJson>) -> Self {
        Self {
            name,
            data,
            state_of: None,
            frame: OnceLock::new(),
            packet: OnceLock::new(),
        }
    }

    /// What clients are told of `push`.
    #[must_use]
    pub fn of(topic: &Topic, push: &Push) -> Self {
        let user = push.user.as_ref().map_or("", |user| user.as_str());
        Self {
            state_of: push
                .kind
                .is_state()
                .then(|| (topic.clone(), user.to_owned())),
            ..Self::new(push.kind.event(), Arc::clone(&push.data))
        }
    }

    /// The native door's frame: `{"event": name, "data": data}`.
    pub fn frame(&self) -> Utf8Bytes {
        let encode = || {
            let (name, data) = (self.name, self.data.get());
            Utf8Bytes::from(format!(r#"{{"event":"{name}","data":{data}}}"#))
        };
        self.frame.get_or_init(encode).clone()
    }

    /// The Socket.IO door's packet, for the namespace with the API.
    pub fn packet(&self) -> Str {
        let encode = || packet::event(socket_io::NAMESPACE, self.name, self.data.get()).into();
        self.packet.get_or_init(encode).clone()
    }
}

/// Something to be sent to one client.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event.
    Event(Arc<Event>),
    /// The answer to a command.
    Reply {
        /// The number the client gave it.
        ack: u64,
        /// What came of it.
        outcome: Result<Arc<RawJson>, Failure>,
    },
    /// Ask for a sign of life.
    Ping,
}

impl Item {
    fn bytes(&self) -> usize {
        ITEM_OVERHEAD
            + match self {
                Self::Event(event) => event.data.get().len(),
                Self::Reply { outcome, .. } => match outcome {
                    Ok(data) => data.get().len(),
                    Err(failure) => failure.message.len(),
                },
                Self::Ping => 0,
            }
    }
}

/// One connection's queue.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    wake: AtomicWaker,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    closed: Option<Close>,
}

impl Outbox {
    /// An empty queue for at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::default(),
            wake: AtomicWaker::new(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `item`, or condemns the connection when there is no room.
    pub fn put(&self, item: Item) {
        let mut queue = self.lock();
        // The answer to the command that ends the connection still comes.
        let answers = matches!(item, Item::Reply { .. });
        if queue
            .closed
            .is_some_and(|reason| !answers || reason == Close::SlowConsumer)
        {
            return;
        }
        if queue.bytes > self.limit / 4
            && let Item::Event(event) = &item
            && let Some(key) = &event.state_of
            && merge(&mut queue, event, key)
        {
            return;
        }
        let bytes = item.bytes();
        // One item finds room in an empty queue, however large it is.
        if queue.bytes + bytes > self.limit && !queue.items.is_empty() {
            metrics::counter!("backscroll_realtime_slow_consumers_total").increment(1);
            queue.items.clear();
            queue.bytes = 0;
            queue.closed = Some(Close::SlowConsumer);
        } else {
            queue.bytes += bytes;
            queue.items.push_back(item);
        }
        drop(queue);
        self.wake.wake();
    }

    /// Queues an event.
    pub fn event(&self, event: &Arc<Event>) {
        self.put(Item::Event(Arc::clone(event)));
    }

    /// Puts `event` before everything that waits.
    pub fn first(&self, event: Event) {
        let item = Item::Event(Arc::new(event));
        let mut queue = self.lock();
        queue.bytes += item.bytes();
        queue.items.push_front(item);
        drop(queue);
        self.wake.wake();
    }

    /// No event is queued from now on; the connection is closed for `reason` after what waits.
    pub fn close(&self, reason: Close) {
        self.lock().closed.get_or_insert(reason);
        self.wake.wake();
    }

    /// Why it is closed.
    #[must_use]
    pub fn closed(&self) -> Option<Close> {
        self.lock().closed
    }

    /// How much waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Waits for the next items, at most `most`, and appends them to `items`; an error once nothing is left and the
    /// connection is to be closed. One reader at a time.
    ///
    /// # Errors
    /// Why the connection is to be closed.
    pub async fn next(&self, items: &mut Vec<Item>, most: usize) -> Result<(), Close> {
        poll_fn(|context| {
            self.wake.register(context.waker());
            let mut queue = self.lock();
            if queue.items.is_empty() {
                return match queue.closed {
                    Some(reason) => Poll::Ready(Err(reason)),
                    None => Poll::Pending,
                };
            }
            let n = queue.items.len().min(most);
            let first = items.len();
            items.extend(queue.items.drain(..n));
            let taken: usize = items[first..].iter().map(Item::bytes).sum();
            queue.bytes = queue.bytes.saturating_sub(taken);
            if queue.items.is_empty() {
                queue.items = VecDeque::new(); // an idle connection keeps no memory
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// Replaces what waits of the same kind and user. Without that the event is dropped, except that somebody came or went:
/// nothing would tell that later. Says whether it is done with.
fn merge(queue: &mut Queue, event: &Arc<Event>, key: &(Topic, String)) -> bool {
    let presence = matches!(key.0, Topic::Presence(_));
    let Queue { items, bytes, .. } = queue;
    for item in items.iter_mut().rev().take(MERGE_LOOKBACK) {
        let before = item.bytes();
        if let Item::Event(waiting) = item
            && (waiting.name == event.name || presence)
            && waiting.state_of.as_ref() == Some(key)
        {
            *waiting = Arc::clone(event);
            *bytes = *bytes - before + item.bytes();
            metrics::counter!("backscroll_realtime_merged_total").increment(1);
            return true;
        }
    }
    if !presence {
        metrics::counter!("backscroll_realtime_dropped_states_total").increment(1);
    }
    !presence
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::UserId;
    use serde_json::json;

    use super::*;
    use crate::push::PushKind;

    fn event(text: &str) -> Item {
        Item::Event(Arc::new(Event::new(
            "new_message",
            Arc::new(RawJson::of(&text)),
        )))
    }

    fn receipt(user: &str, seq: u64) -> Item {
        let user = UserId::new(user).unwrap();
        let topic = Topic::User(user.clone());
        let push = Push::state(PushKind::MessagesRead, user, &json!({"seq": seq}));
        Item::Event(Arc::new(Event::of(&topic, &push)))
    }

    async fn texts(outbox: &Outbox) -> Vec<String> {
        let mut items = Vec::new();
        outbox.next(&mut items, 100).await.unwrap();
        let text = |item: Item| match item {
            Item::Event(event) => event.data.get().to_owned(),
            other => format!("{other:?}"),
        };
        items.into_iter().map(text).collect()
    }

    #[tokio::test]
    async fn what_is_put_comes_in_order_and_hello_first() {
        let outbox = Outbox::new(10_000);
        outbox.put(event("a"));
        outbox.put(event("b"));
        outbox.first(Event::new("hello", Arc::new(RawJson::of(&"h"))));
        assert_eq!(texts(&outbox).await, [r#""h""#, r#""a""#, r#""b""#]);
        assert_eq!(outbox.bytes(), 0);
    }

    #[tokio::test]
    async fn one_item_always_finds_room() {
        let outbox = Outbox::new(100);
        outbox.put(event(&"long".repeat(1000)));
        assert_eq!(texts(&outbox).await.len(), 1);
    }

    #[tokio::test]
    async fn a_full_queue_condemns_the_connection() {
        let outbox = Outbox::new(500);
        for _ in 0..10 {
            outbox.put(event("a message of some length"));
        }
        let mut items = Vec::new();
        assert_eq!(outbox.next(&mut items, 100).await, Err(Close::SlowConsumer));
        assert_eq!(items.len(), 0);
    }

    #[tokio::test]
    async fn above_the_soft_mark_state_is_merged_and_durable_events_are_kept() {
        let outbox = Outbox::new(2000);
        outbox.put(receipt("alice", 1));
        while outbox.bytes() <= 500 {
            outbox.put(event("filling"));
        }
        let before = outbox.lock().items.len();
        outbox.put(receipt("alice", 2));
        outbox.put(receipt("bob", 7));
        assert_eq!(outbox.lock().items.len(), before, "one merged, one dropped");
        outbox.put(event("durable"));
        let texts = texts(&outbox).await;
        assert_eq!(texts[0], r#"{"seq":2}"#);
        assert_eq!(texts.last().unwrap(), r#""durable""#);
    }

    #[tokio::test]
    async fn what_waits_at_the_end_is_still_given() {
        let outbox = Outbox::new(1000);
        outbox.put(event("last"));
        outbox.close(Close::ShuttingDown);
        outbox.put(event("too late"));
        let outcome = Err(Failure::invalid("why"));
        outbox.put(Item::Reply { ack: 1, outcome });
        let texts = texts(&outbox).await;
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert_eq!(texts[0], r#""last""#);
        assert!(texts[1].starts_with("Reply"), "{texts:?}");
        assert_eq!(
            outbox.next(&mut Vec::new(), 1).await,
            Err(Close::ShuttingDown)
        );
    }
}
