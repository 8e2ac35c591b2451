//! Delivers users' presence to the sessions of this node that watch them.
//!
//! A session watches the users that it named; an onlooker of a small conversation watches the conversation's members. Only
//! topics that sessions need are subscribed to, so presence reaches no other node.

use std::collections::HashSet;
use std::sync::Arc;

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::tasks::OneShots;

use crate::bus::Status;
use crate::hub::conversation::ConversationTopic;
use crate::hub::log_reader::LogReader;
use crate::hub::topics::{Entry, Topics};
use crate::protocol::Presence;
use crate::push::Push;
use crate::session::Session;

use super::members::SMALL_MEMBERS_MAX;
use super::watchers::Comparison;

/// Delivers presence on one node.
pub(crate) struct PresenceFanOut {
    topics: Arc<Topics>,
    log: Arc<LogReader>,
    follow_ups: OneShots,
}

impl PresenceFanOut {
    /// Delivers to the sessions of `topics`; reads members from `log`.
    pub(crate) fn new(topics: Arc<Topics>, log: Arc<LogReader>, follow_ups: &OneShots) -> Self {
        Self {
            topics,
            log,
            follow_ups: follow_ups.clone(),
        }
    }

    /// Lets `session` watch `user`, whose presence it may be shown; says whether it did not before.
    pub(crate) async fn watch(&self, session: &Arc<Session>, user: UserId) -> bool {
        let entry = self.topics.presence.open(user).await;
        entry.lock().add(session)
    }

    /// Ends the watching of `user`; says whether there was one.
    pub(crate) fn unwatch(&self, session: &Arc<Session>, user: &UserId) -> bool {
        let entry = self.topics.presence.find(user);
        entry.is_some_and(|entry| entry.lock().remove(session))
    }

    /// The users that this node subscribes to.
    pub(crate) fn watched(&self) -> Vec<UserId> {
        self.topics.presence.keys()
    }

    /// Records the presence that a new watcher received in its reply.
    pub(crate) fn note_reply(&self, presence: &Presence) {
        if let Some(entry) = self.topics.presence.find(&presence.user_id) {
            entry.lock().note_reply(presence);
        }
    }

    /// Delivers the presence of `user`: to the sessions that watch the user, and to the onlookers of open conversations of
    /// which the user is a member, each session once.
    pub(crate) fn deliver(&self, user: &UserId, push: &Push) {
        let Some(entry) = self.topics.presence.find(user) else {
            return;
        };
        let (event, conversations) = {
            let mut watchers = entry.lock();
            let Some(event) = watchers.deliver(push) else {
                return;
            };
            (event, watchers.conversations().to_vec())
        };
        let mut reached = HashSet::new();
        for id in conversations {
            let Some(conversation) = self.topics.conversations.find(&id) else {
                continue;
            };
            let state = conversation.lock();
            if !state.members.include(user) {
                continue;
            }
            for session in state.members.onlookers() {
                let wants = session.user != *user && !session.names_watched();
                if wants && session.has_joined(id) && reached.insert(session.id) {
                    session.outbox.put_event(&event);
                }
            }
        }
    }

    /// How much the watchers of each of `users` were told so far.
    pub(crate) fn versions(&self, users: &[UserId]) -> Vec<u64> {
        let version = |user: &UserId| {
            let entry = self.topics.presence.find(user);
            entry.map_or(0, |entry| entry.lock().version())
        };
        users.iter().map(version).collect()
    }

    /// Compares what the watchers of `user` know with what the roster has; see [`super::watchers::Watchers::compare`].
    pub(crate) fn compare(&self, user: &UserId, status: Status, version: u64) -> Comparison {
        let entry = self.topics.presence.find(user);
        entry.map_or(Comparison::Equal, |entry| {
            entry.lock().compare(status, version)
        })
    }

    /// Makes `session` an onlooker of a conversation that it has open, and returns the members.
    ///
    /// # Errors
    /// [`Error::NotMember`] when the session does not have it open; others when the members cannot be read.
    pub(crate) async fn add_onlooker(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
    ) -> Result<Arc<[UserId]>> {
        let entry = self.topics.conversations.find(&id);
        let entry = entry.ok_or(Error::NotMember)?;
        let known = {
            let mut state = entry.lock();
            if state.feed.listens(session) {
                state.members.add_onlooker(session);
            }
            state.members.ids()
        };
        if let Some(ids) = known {
            return Ok(ids);
        }
        let _one_reads = entry.reading.lock().await;
        let known = entry.lock().members.ids();
        match known {
            Some(ids) => Ok(ids), // read meanwhile
            None => self.read_members(&entry, &session.user).await,
        }
    }

    /// Reads the members, as the member `reader` sees them, and subscribes to their presence.
    async fn read_members(
        &self,
        entry: &Entry<ConversationTopic>,
        reader: &UserId,
    ) -> Result<Arc<[UserId]>> {
        let id = entry.key;
        let Some(ids) = self.log.members(id, reader, SMALL_MEMBERS_MAX).await? else {
            entry.lock().members.outgrow();
            return Ok(Arc::default());
        };
        // Recorded before the subscriptions, as the sweep removes conversations whose members do not include the user.
        entry.lock().members.set_ids(Some(Arc::clone(&ids)));
        let subscribing = ids.iter().map(|member| async move {
            let watchers = self.topics.presence.open(member.clone()).await;
            watchers.lock().add_conversation(id);
        });
        futures_util::future::join_all(subscribing).await;
        Ok(ids)
    }

    /// The members of a conversation may have changed, or one of two blocks the other: reads them again when there are onlookers.
    pub(crate) fn members_changed(self: &Arc<Self>, entry: &Arc<Entry<ConversationTopic>>) {
        let listener = {
            let state = entry.lock();
            let listener = state.feed.listeners().next();
            let listener = listener.filter(|_| state.members.may_be_direct());
            listener.map(|session| session.user.clone())
        };
        if listener.is_none() && reader(entry).is_none() {
            return;
        }
        let (fan_out, entry) = (Arc::clone(self), Arc::clone(entry));
        let _ = self.follow_ups.spawn(async move {
            if let Some(listener) = listener {
                match fan_out.log.standing(entry.key, &listener).await {
                    Ok(standing) => entry.lock().members.set_standing(&standing),
                    Err(error) => {
                        tracing::debug!(%error, "where a conversation stands cannot be read");
                    }
                }
            }
            let Some(reader) = reader(&entry) else {
                return;
            };
            let _one_reads = entry.reading.lock().await;
            if let Err(error) = fan_out.read_members(&entry, &reader).await {
                tracing::debug!(%error, "the members of a conversation cannot be read");
            }
        });
    }

    /// Drops topics that no session needs, and returns how many are left.
    pub(crate) fn sweep(&self) -> usize {
        let entries = self.topics.presence.sweep();
        for entry in &entries {
            let conversations = entry.lock().conversations().to_vec();
            for id in conversations {
                let open = self.topics.conversations.find(&id);
                let needed = open.is_some_and(|open| open.lock().members.include(&entry.key));
                if !needed {
                    entry.lock().remove_conversation(id);
                }
            }
        }
        entries.len()
    }
}

/// An onlooker of a small conversation; without one its members need not be known.
fn reader(entry: &Entry<ConversationTopic>) -> Option<UserId> {
    let mut state = entry.lock();
    let members = &mut state.members;
    members.forget_expelled(entry.key);
    let mut onlookers = members.onlookers().iter().filter(|_| members.is_small());
    let reader = onlookers.next().map(|session| session.user.clone());
    if reader.is_none() {
        members.set_ids(None);
    }
    reader
}
