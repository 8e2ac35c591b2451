//! What the registry of topics has to know of a kind of topic.

use std::hash::Hash;

use crate::push::Topic;

/// The state that a node keeps for a topic: each kind of topic has its own.
pub(crate) trait TopicState: Send + 'static {
    /// Identifies a topic of this kind: a conversation, or a user.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;

    /// The state of a topic without sessions.
    fn new(key: &Self::Key) -> Self;

    /// The topic on the bus.
    fn topic(key: &Self::Key) -> Topic;

    /// Whether no session needs the topic.
    fn is_unused(&self) -> bool;

    /// Drops what is out of date; says whether the topic itself is.
    fn sweep(&mut self) -> bool;
}
