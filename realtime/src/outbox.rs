//! The queue of one session: what waits to be sent to its client, bounded in bytes (INV-BOUND).
//!
//! Filling the queue never waits. Three marks decide what happens when a client reads slowly:
//!
//! - beyond a quarter of the bound, an event that carries state replaces the event with the same state that waits already, or
//!   is dropped: only the latest state counts;
//! - beyond it, too, a change that tells its message or list entry whole takes the place of the earlier change of the same
//!   one that waits. It comes at its own place, so that revs still grow: changes that are repeated, such as a reaction taken
//!   back and forth, take the room of one;
//! - at the bound, the queue is emptied and closed with [`Close::SlowConsumer`]: the client resumes, and so misses nothing
//!   (INV-PUSH);
//! - one item always finds room in an empty queue. What an item holds is bounded elsewhere: a message by
//!   `limits.message_bytes`, the answer to a `sync` by a share of this queue ([`answer_bytes`]).
//!
//! The reader takes [`TAKE_BYTES`] at a time, so that what is being written to a slow client is bounded, too.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use backscroll_shard::model::RawJson;
use futures_util::task::AtomicWaker;

use crate::client_event::{ClientEvent, StateKey};
use crate::metrics;
use crate::protocol::{Close, Failure};
use crate::push::{Subject, Topic};

/// How many queued items are searched for one that an event replaces.
const MERGE_LOOKBACK: usize = 64;
/// Estimated memory of an item beside its text, in bytes.
const ITEM_OVERHEAD: usize = 64;

/// How many bytes are taken for one write, unless the first item alone is larger.
const TAKE_BYTES: usize = 128 << 10;

/// Most bytes of messages in an answer that waits in a queue for at most `queue_bytes`.
pub(crate) fn answer_bytes(queue_bytes: usize, answer_bytes: u32) -> usize {
    (answer_bytes as usize).min(queue_bytes / 4)
}

/// Something to send to one client.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event.
    Event(Arc<ClientEvent>),
    /// The answer to a command.
    Reply {
        /// The number that the client gave the command.
        ack: u64,
        /// The answer.
        outcome: Result<Arc<RawJson>, Failure>,
    },
    /// A ping, which asks the client for a sign of life.
    Ping,
}

impl Item {
    fn bytes(&self) -> usize {
        ITEM_OVERHEAD
            + match self {
                Self::Event(event) => event.data().len(),
                Self::Reply { outcome, .. } => match outcome {
                    Ok(data) => data.get().len(),
                    Err(failure) => failure.message.len(),
                },
                Self::Ping => 0,
            }
    }
}

/// The queue of one session.
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
        // No change panics half-way, so the queue behind a poisoned lock is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `item`; closes the queue when there is no room.
    pub fn put(&self, item: Item) {
        let mut queue = self.lock();
        // The answer to the command that ends the connection is still sent.
        let is_reply = matches!(item, Item::Reply { .. });
        if queue
            .closed
            .is_some_and(|reason| !is_reply || reason == Close::SlowConsumer)
        {
            return;
        }
        if queue.bytes > self.limit / 4
            && let Item::Event(event) = &item
            && let Some(state) = event.state_of()
            && merge(&mut queue, event, state)
        {
            return;
        }
        if queue.bytes > self.limit / 4
            && let Item::Event(event) = &item
            && let Some(subject) = event.subject()
        {
            supersede(&mut queue, subject);
        }
        let bytes = item.bytes();
        if queue.bytes + bytes > self.limit && !queue.items.is_empty() {
            metrics::SLOW_CONSUMERS.increment(1);
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
    pub fn put_event(&self, event: &Arc<ClientEvent>) {
        self.put(Item::Event(Arc::clone(event)));
    }

    /// Queues an event ahead of everything that waits, whether there is room or not.
    pub fn put_first(&self, event: ClientEvent) {
        let item = Item::Event(Arc::new(event));
        let mut queue = self.lock();
        queue.bytes += item.bytes();
        queue.items.push_front(item);
        drop(queue);
        self.wake.wake();
    }

    /// Takes no more events. The connection is closed with `reason` once the queue is empty; the first reason counts.
    pub fn close(&self, reason: Close) {
        self.lock().closed.get_or_insert(reason);
        self.wake.wake();
    }

    /// The reason with which the queue was closed; none while it is open.
    #[must_use]
    pub fn closed(&self) -> Option<Close> {
        self.lock().closed
    }

    /// The size of everything that waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Waits for the next items and appends them to `items`, at most `most` at a time. One reader at a time.
    ///
    /// # Errors
    /// The reason with which the connection is to be closed, once the queue is closed and empty.
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
            let mut taken = 0;
            let fits = |item: &&Item| {
                let fits = taken == 0 || taken + item.bytes() <= TAKE_BYTES;
                taken += if fits { item.bytes() } else { 0 };
                fits
            };
            let n = queue.items.iter().take(most).take_while(fits).count();
            let first = items.len();
            items.extend(queue.items.drain(..n));
            queue.bytes = queue.bytes.saturating_sub(taken);
            let events = items[first..].iter();
            let events = events.filter(|item| matches!(item, Item::Event(_))).count();
            if events > 0 {
                metrics::EVENTS.increment(events as u64);
            }
            if queue.items.is_empty() {
                queue.items = VecDeque::new(); // an idle connection keeps no memory
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// Handles an event with `state` in a queue that is filling up; says whether the event is dealt with.
///
/// The event takes the place of the one with the same state that waits. When none waits it is dropped, except for presence,
/// which no later read would make up for.
fn merge(queue: &mut Queue, event: &Arc<ClientEvent>, state: &StateKey) -> bool {
    let presence = matches!(state.topic, Topic::Presence(_));
    let Queue { items, bytes, .. } = queue;
    for item in items.iter_mut().rev().take(MERGE_LOOKBACK) {
        let before = item.bytes();
        if let Item::Event(waiting) = item
            && (waiting.name() == event.name() || presence)
            && waiting.state_of() == Some(state)
        {
            *waiting = Arc::clone(event);
            *bytes = *bytes - before + item.bytes();
            metrics::MERGED.increment(1);
            return true;
        }
    }
    if !presence {
        metrics::DROPPED_STATES.increment(1);
    }
    !presence
}

/// Removes the change of `subject` that waits, if one does, from a queue that is filling up: a later one tells all of it.
fn supersede(queue: &mut Queue, subject: Subject) {
    let Queue { items, bytes, .. } = queue;
    let is_of =
        |item: &Item| matches!(item, Item::Event(event) if event.subject() == Some(subject));
    let mut latest = items.iter().rev().take(MERGE_LOOKBACK);
    let Some(back) = latest.position(is_of) else {
        return;
    };
    if let Some(item) = items.remove(items.len() - 1 - back) {
        *bytes = bytes.saturating_sub(item.bytes());
        metrics::MERGED.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::{ConversationId, MessageId, Rev, Seq, UserId, UserKey};
    use serde_json::json;

    use super::*;
    use crate::protocol::events::EventName;
    use crate::push::{Push, PushKind};

    fn event(text: &str) -> Item {
        Item::Event(Arc::new(ClientEvent::new(EventName::NewMessage, &text)))
    }

    fn receipt(user: &str, seq: u64) -> Item {
        let user = UserId::new(user).unwrap();
        let topic = Topic::User(user.clone());
        let push = Push::state(PushKind::MessagesRead, user, &json!({"seq": seq}));
        Item::Event(Arc::new(ClientEvent::of(&topic, &push).unwrap()))
    }

    async fn texts(outbox: &Outbox) -> Vec<String> {
        let mut items = Vec::new();
        outbox.next(&mut items, 100).await.unwrap();
        let text = |item: Item| match item {
            Item::Event(event) => event.data().to_owned(),
            other => format!("{other:?}"),
        };
        items.into_iter().map(text).collect()
    }

    #[tokio::test]
    async fn items_come_in_order_and_hello_first() {
        let outbox = Outbox::new(10_000);
        outbox.put(event("a"));
        outbox.put(event("b"));
        outbox.put_first(ClientEvent::new(EventName::Hello, &"h"));
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
    async fn one_write_takes_some_bytes_only() {
        let outbox = Outbox::new(1 << 20);
        for _ in 0..5 {
            outbox.put(event(&"x".repeat(TAKE_BYTES / 2 - 100)));
        }
        outbox.put(event(&"x".repeat(2 * TAKE_BYTES)));
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(texts(&outbox).await.len());
        }
        assert_eq!(taken, [2, 2, 1, 1]);
        assert_eq!(outbox.bytes(), 0);
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

    /// A change of a message, of `size` bytes.
    fn updated(seq: u64, rev: u64, size: usize) -> Item {
        let conversation = ConversationId::new(UserKey(1), 2);
        let seq = Seq(seq);
        let data = json!({ "seq": seq, "rev": rev, "fill": "x".repeat(size) });
        let push = Push::change(PushKind::MessageUpdated, Rev(rev), &data)
            .of(Subject::Message(MessageId { conversation, seq }));
        let topic = Topic::Conversation(conversation);
        Item::Event(Arc::new(ClientEvent::of(&topic, &push).unwrap()))
    }

    #[tokio::test]
    async fn repeated_changes_of_large_messages_take_the_room_of_one_each() {
        let outbox = Outbox::new(1 << 20);
        outbox.put(event("before"));
        for rev in 1..=300 {
            outbox.put(updated(1 + rev % 3, rev, 96_000));
            if rev % 10 == 0 {
                outbox.put(event(&rev.to_string()));
            }
        }
        assert_eq!(outbox.closed(), None, "{} bytes", outbox.bytes());
        let mut events = Vec::new();
        while outbox.bytes() > 0 {
            events.extend(texts(&outbox).await);
        }
        let data: Vec<serde_json::Value> = events
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        let revs: Vec<u64> = data
            .iter()
            .filter_map(|data| data["rev"].as_u64())
            .collect();
        assert!(
            revs.is_sorted() && revs.ends_with(&[298, 299, 300]),
            "{revs:?}"
        );
        assert!(revs.len() < 10, "{revs:?}");
        let others = data.iter().filter(|data| data.is_string()).count();
        assert_eq!(others, 31, "other events are all there");
    }

    #[tokio::test]
    async fn items_that_wait_when_the_queue_closes_are_still_given() {
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
