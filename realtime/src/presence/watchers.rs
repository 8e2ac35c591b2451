//! The state of a presence topic: the sessions and conversations to which one user's presence is delivered.

use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::RawJson;

use crate::bus::Status;
use crate::client_event::ClientEvent;
use crate::hub::topic_state::TopicState;
use crate::protocol::Presence;
use crate::push::{Push, Topic};
use crate::session::Session;

/// The watchers of one user.
#[derive(Debug)]
pub(crate) struct Watchers {
    user: UserId,
    /// Sessions that named the user with `presence_subscribe`.
    sessions: Vec<Arc<Session>>,
    /// Open conversations whose onlookers receive the user's presence, as the user is a member.
    conversations: Vec<ConversationId>,
    /// The presence that all watchers received last; none when they received different ones. The same presence is not delivered
    /// twice in a row.
    last: Option<Arc<RawJson>>,
}

impl TopicState for Watchers {
    type Key = UserId;

    fn new(user: &UserId) -> Self {
        Self {
            user: user.clone(),
            sessions: Vec::new(),
            conversations: Vec::new(),
            last: None,
        }
    }

    fn topic(user: &UserId) -> Topic {
        Topic::Presence(user.clone())
    }

    fn is_unused(&self) -> bool {
        self.sessions.is_empty() && self.conversations.is_empty()
    }

    fn sweep(&mut self) -> bool {
        self.is_unused()
    }
}

impl Watchers {
    /// Adds a session.
    pub(crate) fn add(&mut self, session: &Arc<Session>) {
        self.remove(session);
        self.sessions.push(Arc::clone(session));
    }

    /// Removes a session.
    pub(crate) fn remove(&mut self, session: &Arc<Session>) {
        self.sessions.retain(|other| !Arc::ptr_eq(other, session));
    }

    /// Adds an open conversation.
    pub(crate) fn add_conversation(&mut self, id: ConversationId) {
        if !self.conversations.contains(&id) {
            self.conversations.push(id);
        }
    }

    /// Removes an open conversation.
    pub(crate) fn remove_conversation(&mut self, id: ConversationId) {
        self.conversations.retain(|other| *other != id);
    }

    /// The open conversations.
    pub(crate) fn conversations(&self) -> &[ConversationId] {
        &self.conversations
    }

    /// Records the presence that a new watcher received in its reply. If other watchers last received a different one, forgets
    /// that, so that the next presence is not suppressed as a repetition.
    pub(crate) fn note_reply(&mut self, presence: &Presence) {
        let data = Arc::new(RawJson::of(presence));
        if self.sessions.len() < 2 {
            self.last = Some(data);
        } else if self.last.as_ref().is_some_and(|last| **last != *data) {
            self.last = None;
        }
    }

    /// Whether all watchers know that the user is offline.
    pub(crate) fn know_offline(&self) -> bool {
        let last = self.last.as_ref();
        let last = last.and_then(|last| serde_json::from_str::<Presence>(last.get()).ok());
        last.is_some_and(|last| last.status == Status::Offline)
    }

    /// Delivers the user's presence to the sessions, unless they received the same last. Returns the event for the onlookers of
    /// the conversations.
    pub(crate) fn deliver(&mut self, push: &Push) -> Option<Arc<ClientEvent>> {
        let known = self.last.as_ref();
        if known.is_some_and(|last| **last == *push.data) {
            return None;
        }
        let event = Arc::new(ClientEvent::of(&Self::topic(&self.user), push)?);
        self.last = Some(Arc::clone(&push.data));
        for session in &self.sessions {
            session.outbox.put_event(&event);
        }
        Some(event)
    }
}
