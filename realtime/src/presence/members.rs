//! Presence of the members of a small conversation, for sessions that name nobody to watch.
//!
//! Older front-ends expect to receive the presence of the people in a conversation without asking for it. A session that joins
//! a conversation of at most [`SMALL_MEMBERS_MAX`] members and has not used `presence_subscribe` becomes an onlooker: it
//! receives the presence of the members. The state is here; [`PresenceFanOut`](super::fan_out::PresenceFanOut) reads the
//! members and delivers.

use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::store::Standing;

use crate::session::Session;

/// In larger conversations neither typing nor the members' presence is delivered.
pub(crate) const SMALL_MEMBERS_MAX: u64 = 50;

/// What a node knows of the members of an open conversation.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// How many there were when a session joined last.
    count: u64,
    /// One of the two members of a direct conversation blocks the other: neither is shown the other's presence, or typing.
    is_closed: bool,
    /// The members, once an onlooker needed them; none again when they may have changed.
    ids: Option<Arc<[UserId]>>,
    onlookers: Vec<Arc<Session>>,
}

impl Members {
    /// Takes what a standing says of the members.
    pub(crate) fn set_standing(&mut self, standing: &Standing) {
        self.count = standing.member_count;
        self.is_closed = standing.is_closed;
    }

    /// Whether the conversation is small, and no member blocks the other.
    pub(crate) fn is_small(&self) -> bool {
        self.count <= SMALL_MEMBERS_MAX && !self.is_closed
    }

    /// Whether the conversation may be a direct one.
    pub(crate) fn may_be_direct(&self) -> bool {
        self.count <= 2
    }

    /// The conversation is no longer small.
    pub(crate) fn outgrow(&mut self) {
        self.count = self.count.max(SMALL_MEMBERS_MAX + 1);
        self.ids = None;
    }

    /// The members, if they are known.
    pub(crate) fn ids(&self) -> Option<Arc<[UserId]>> {
        self.ids.clone()
    }

    /// Takes the members; none when they may have changed.
    pub(crate) fn set_ids(&mut self, ids: Option<Arc<[UserId]>>) {
        self.ids = ids;
    }

    /// Whether `user` is known to be a member.
    pub(crate) fn include(&self, user: &UserId) -> bool {
        self.ids.as_ref().is_some_and(|ids| ids.contains(user))
    }

    /// Makes `session` an onlooker.
    pub(crate) fn add_onlooker(&mut self, session: &Arc<Session>) {
        self.forget_onlooker(session);
        self.onlookers.push(Arc::clone(session));
    }

    /// Removes an onlooker.
    pub(crate) fn forget_onlooker(&mut self, session: &Arc<Session>) {
        self.onlookers.retain(|other| !Arc::ptr_eq(other, session));
    }

    /// Removes the onlookers that no longer have conversation `id` open.
    pub(crate) fn forget_expelled(&mut self, id: ConversationId) {
        self.onlookers.retain(|session| session.has_joined(id));
    }

    /// The onlookers.
    pub(crate) fn onlookers(&self) -> &[Arc<Session>] {
        &self.onlookers
    }
}
