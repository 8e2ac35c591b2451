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
    /// Sessions that named the user with `presence_subscribe`, and may be shown the user's presence.
    sessions: Vec<Arc<Session>>,
    /// Open conversations whose onlookers receive the user's presence, as the user is a member.
    conversations: Vec<ConversationId>,
    told: Told,
    /// Counts what was told, so that a look-up that began before is known to be old.
    version: u64,
    /// In how many comparisons in a row the roster did not have the user, whom the watchers believe to be connected.
    missing: u8,
}

/// The presence that watchers received last.
#[derive(Debug)]
enum Told {
    /// There was none.
    Nothing,
    /// All of them received this. It is not delivered twice in a row.
    Same(Arc<RawJson>),
    /// They received different ones.
    Different,
}

impl TopicState for Watchers {
    type Key = UserId;

    fn new(user: &UserId) -> Self {
        Self {
            user: user.clone(),
            sessions: Vec::new(),
            conversations: Vec::new(),
            told: Told::Nothing,
            version: 0,
            missing: 0,
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
    /// Adds a session; says whether it is new.
    pub(crate) fn add(&mut self, session: &Arc<Session>) -> bool {
        let is_new = !self.remove(session);
        self.sessions.push(Arc::clone(session));
        is_new
    }

    /// Removes a session; says whether it was there.
    pub(crate) fn remove(&mut self, session: &Arc<Session>) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|other| !Arc::ptr_eq(other, session));
        self.sessions.len() < before
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

    /// Records the presence that a new watcher received in its reply. If other watchers last received a different one, the next
    /// presence is not suppressed as a repetition, and the next comparison delivers what is right; replies do not delay that
    /// comparison, however many there are.
    pub(crate) fn note_reply(&mut self, presence: &Presence) {
        let is_alone = self.sessions.len() < 2 && self.conversations.is_empty();
        if is_alone || matches!(self.told, Told::Nothing) {
            self.tell(Told::Same(Arc::new(RawJson::of(presence))));
        } else if self.known().is_some_and(|known| known != presence.status) {
            self.told = Told::Different;
            self.version += 1;
        }
    }

    fn tell(&mut self, told: Told) {
        (self.told, self.missing) = (told, 0);
        self.version += 1;
    }

    /// The status that all watchers know; none when they know different ones.
    fn known(&self) -> Option<Status> {
        match &self.told {
            Told::Nothing => Some(Status::Offline),
            Told::Same(last) => {
                let last = serde_json::from_str::<Presence>(last.get());
                last.ok().map(|last| last.status)
            }
            Told::Different => None,
        }
    }

    /// Grows with everything that watchers are told.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Compares what the watchers know with the `status` that the roster gave; the look-up began when the version was `version`.
    ///
    /// A user whom the roster does not have is not offline at once: after a restart of Redis, or a pause of the user's node, the
    /// roster lacks users until their nodes renew their leases.
    pub(crate) fn compare(&mut self, status: Status, version: u64) -> Comparison {
        if self.version != version || self.known() == Some(status) {
            self.missing = 0;
            return Comparison::Equal;
        }
        if status == Status::Offline && self.missing < MISSING_MAX {
            self.missing += 1;
            return Comparison::InDoubt;
        }
        Comparison::Differs
    }

    /// Delivers the user's presence to the sessions, unless they received the same last. Returns the event for the onlookers of
    /// the conversations.
    pub(crate) fn deliver(&mut self, push: &Push) -> Option<Arc<ClientEvent>> {
        if matches!(&self.told, Told::Same(last) if **last == *push.data) {
            return None;
        }
        let event = Arc::new(ClientEvent::of(&Self::topic(&self.user), push)?);
        self.tell(Told::Same(Arc::clone(&push.data)));
        for session in &self.sessions {
            session.outbox.put_event(&event);
        }
        Some(event)
    }
}

/// In how many comparisons in a row the roster may lack a user before the user is offline.
const MISSING_MAX: u8 = 2;

/// What comes of comparing what watchers know with the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// They know what is right.
    Equal,
    /// The roster lacks the user; the next comparison decides.
    InDoubt,
    /// They have to be told.
    Differs,
}

#[cfg(test)]
mod tests {
    use backscroll_shard::model::Timestamp;

    use super::*;

    fn alice() -> UserId {
        UserId::new("alice").unwrap()
    }

    fn presence(status: Status) -> Presence {
        Presence {
            user_id: alice(),
            status,
            last_seen: (status == Status::Offline).then_some(Timestamp(1)),
        }
    }

    #[test]
    fn replies_to_new_watchers_do_not_put_off_what_the_others_lack() {
        let mut watchers = Watchers::new(&alice());
        watchers.add(&Session::test("bob"));
        watchers.note_reply(&presence(Status::Online));
        let mut compared = Vec::new();
        for n in 0..4 {
            watchers.add(&Session::test(&format!("stranger{n}")));
            watchers.note_reply(&presence(Status::Offline));
            let version = watchers.version();
            watchers.note_reply(&presence(Status::Offline)); // beside the look-up
            compared.push(watchers.compare(Status::Offline, version));
        }
        let doubt = Comparison::InDoubt;
        let differs = Comparison::Differs;
        assert_eq!(compared, [doubt, doubt, differs, differs]);
    }

    #[test]
    fn a_lost_push_is_made_up_for_in_both_directions() {
        let mut watchers = Watchers::new(&alice());
        watchers.add(&Session::test("bob"));
        watchers.note_reply(&presence(Status::Online));
        let version = watchers.version();
        assert_eq!(watchers.compare(Status::Online, version), Comparison::Equal);
        assert_eq!(watchers.compare(Status::Busy, version), Comparison::Differs);
        // Offline only after some comparisons in a row.
        for _ in 0..MISSING_MAX {
            let compared = watchers.compare(Status::Offline, version);
            assert_eq!(compared, Comparison::InDoubt);
        }
        assert_eq!(watchers.compare(Status::Online, version), Comparison::Equal);
        for _ in 0..MISSING_MAX {
            watchers.compare(Status::Offline, version);
        }
        let compared = watchers.compare(Status::Offline, version);
        assert_eq!(compared, Comparison::Differs);
        // A look-up from before the last delivery says nothing.
        watchers.note_reply(&presence(Status::Away));
        assert_eq!(watchers.compare(Status::Online, version), Comparison::Equal);
    }

    #[test]
    fn watchers_who_know_different_statuses_are_told() {
        let mut watchers = Watchers::new(&alice());
        watchers.add(&Session::test("bob"));
        watchers.note_reply(&presence(Status::Offline));
        watchers.add(&Session::test("carol"));
        watchers.note_reply(&presence(Status::Online));
        let version = watchers.version();
        let compared = watchers.compare(Status::Online, version);
        assert_eq!(compared, Comparison::Differs);
    }
}
