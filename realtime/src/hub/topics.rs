//! The registry of a node's topics.
//!
//! Each kind of topic has a type of its own for its state ([`TopicState`]) and a registry of its own ([`Registry`]), so that an
//! operation on conversations cannot meet a user's list. A topic is subscribed to on the bus once, however many sessions
//! listen, and unsubscribed from when it is swept. While the bus may be down, subscribing does not delay the session: it goes
//! on in the background, and the audit finds the changes that the bus does not bring.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backscroll_shard::ids::ConversationId;
use backscroll_shard::tasks::OneShots;

use super::conversation::ConversationTopic;
use super::list::ListTopic;
use super::topic_state::TopicState;
use crate::bus::{Bus, SILENCE_MAX};
use crate::presence::watchers::Watchers;
use crate::push::Topic;
use crate::session::Session;

/// Into how many parts, each with a lock, a registry is divided.
const PARTS: usize = 64;

/// A topic on this node.
#[derive(Debug)]
pub(crate) struct Entry<T: TopicState> {
    /// The conversation or the user.
    pub(crate) key: T::Key,
    state: Mutex<T>,
    subscribed: tokio::sync::OnceCell<()>,
    /// Held while the log is read for sessions of the topic, so that one read serves all that need about the same.
    pub(crate) reading: tokio::sync::Mutex<()>,
}

impl<T: TopicState> Entry<T> {
    /// The state, locked. Hold it briefly: nothing waits with it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn subscribe(&self, bus: &dyn Bus) {
        let subscribing = || async {
            if let Err(error) = bus.subscribe(T::topic(&self.key)).await {
                tracing::debug!(%error, "a topic is not subscribed to yet");
            }
        };
        self.subscribed.get_or_init(subscribing).await;
    }
}

type Part<T> = HashMap<<T as TopicState>::Key, Arc<Entry<T>>>;

/// A node's topics of one kind.
pub(crate) struct Registry<T: TopicState> {
    parts: Vec<Mutex<Part<T>>>,
    hasher: RandomState,
    bus: Arc<dyn Bus>,
    follow_ups: OneShots,
}

impl<T: TopicState> Registry<T> {
    fn new(bus: &Arc<dyn Bus>, follow_ups: &OneShots) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            bus: Arc::clone(bus),
            follow_ups: follow_ups.clone(),
        }
    }

    fn part(&self, key: &T::Key) -> MutexGuard<'_, Part<T>> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of the hash will do"
        )]
        let hash = self.hasher.hash_one(key) as usize;
        self.parts[hash % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> impl Iterator<Item = MutexGuard<'_, Part<T>>> {
        let parts = self.parts.iter();
        parts.map(|part| part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The topic of `key`, if this node has it.
    pub(crate) fn find(&self, key: &T::Key) -> Option<Arc<Entry<T>>> {
        self.part(key).get(key).cloned()
    }

    /// The topic of `key`, subscribed to on the bus.
    pub(crate) async fn open(&self, key: T::Key) -> Arc<Entry<T>> {
        let entry = {
            let mut part = self.part(&key);
            let entry = part.entry(key.clone()).or_insert_with(|| {
                Arc::new(Entry {
                    state: Mutex::new(T::new(&key)),
                    key,
                    subscribed: tokio::sync::OnceCell::new(),
                    reading: tokio::sync::Mutex::default(),
                })
            });
            Arc::clone(entry) // which keeps it from being swept until a session listens
        };
        if may_be_down(&*self.bus) {
            let (entry, bus) = (Arc::clone(&entry), Arc::clone(&self.bus));
            // Without room for it, the next session that opens the topic subscribes.
            let _ = self
                .follow_ups
                .spawn(async move { entry.subscribe(&*bus).await });
        } else {
            entry.subscribe(&*self.bus).await;
        }
        entry
    }

    /// Drops a topic that the caller opened for a session which may not listen to it.
    pub(crate) fn drop_unused(&self, entry: &Arc<Entry<T>>) {
        let mut part = self.part(&entry.key);
        // Two references: the map's and the caller's.
        if Arc::strong_count(entry) == 2 && entry.lock().is_unused() {
            part.remove(&entry.key);
            self.bus.unsubscribe(&T::topic(&entry.key));
        }
    }

    /// Drops topics that are out of date, and returns the others.
    pub(crate) fn sweep(&self) -> Vec<Arc<Entry<T>>> {
        let mut kept = Vec::new();
        for mut part in self.parts() {
            part.retain(|key, entry| {
                // A topic that is referenced elsewhere is kept, as a join may be in progress, and so is one that is locked.
                if Arc::strong_count(entry) > 1 {
                    return true;
                }
                let Ok(mut state) = entry.state.try_lock() else {
                    return true;
                };
                let over = state.sweep();
                if over {
                    self.bus.unsubscribe(&T::topic(key));
                }
                !over
            });
            kept.extend(part.values().cloned());
        }
        kept
    }

    /// The keys of all topics.
    pub(crate) fn keys(&self) -> Vec<T::Key> {
        self.parts()
            .flat_map(|part| part.keys().cloned().collect::<Vec<_>>())
            .collect()
    }
}

/// A node's topics.
pub(crate) struct Topics {
    /// Conversations that sessions have open.
    pub(crate) conversations: Registry<ConversationTopic>,
    /// The conversation lists of users with sessions.
    pub(crate) lists: Registry<ListTopic>,
    /// Users whose presence sessions watch.
    pub(crate) presence: Registry<Watchers>,
}

impl Topics {
    /// No topics, on `bus`.
    pub(crate) fn new(bus: &Arc<dyn Bus>, follow_ups: &OneShots) -> Self {
        Self {
            conversations: Registry::new(bus, follow_ups),
            lists: Registry::new(bus, follow_ups),
            presence: Registry::new(bus, follow_ups),
        }
    }

    /// Whether this node has `topic`.
    pub(crate) fn has(&self, topic: &Topic) -> bool {
        match topic {
            Topic::Conversation(id) => self.conversations.part(id).contains_key(id),
            Topic::User(user) => self.lists.part(user).contains_key(user),
            Topic::Presence(user) => self.presence.part(user).contains_key(user),
        }
    }

    /// Ends the listening of `session` to a conversation.
    pub(crate) fn leave(&self, session: &Arc<Session>, id: ConversationId) {
        if let Some(entry) = self.conversations.find(&id) {
            entry.lock().leave(session);
        }
    }

    /// Closes a conversation for a session of a user who is no longer a member (INV-MEMBER).
    pub(crate) fn expel(&self, session: &Arc<Session>, id: ConversationId) {
        self.leave(session, id);
        session.expel(id);
    }
}

/// Whether the bus may be down: it has not proved for a while that pushes are received.
pub(crate) fn may_be_down(bus: &dyn Bus) -> bool {
    bus.silence().is_some_and(|silence| silence > SILENCE_MAX)
}
