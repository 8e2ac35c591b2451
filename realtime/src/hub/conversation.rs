//! The state of a conversation's topic: the feed of its changes, and what is known of its members.

use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::model::ConversationHead;
use backscroll_shard::store::Standing;

use super::feed::{Delivery, Feed};
use super::topic_state::TopicState;
use crate::client_event::ClientEvent;
use crate::presence::members::Members;
use crate::push::{Push, Topic};
use crate::session::Session;

/// The state of a conversation's topic.
#[derive(Debug)]
pub(crate) struct ConversationTopic {
    /// Its revs are the conversation's.
    pub(crate) feed: Feed,
    /// The newest message that was delivered. A message after it that is read from the log is a new one.
    newest: Seq,
    pub(crate) members: Members,
    /// Whether a task is about to check every session's membership.
    pub(crate) checking_members: bool,
}

impl TopicState for ConversationTopic {
    type Key = ConversationId;

    fn new(id: &ConversationId) -> Self {
        Self {
            feed: Feed::new(Self::topic(id)),
            newest: Seq(0),
            members: Members::default(),
            checking_members: false,
        }
    }

    fn topic(id: &ConversationId) -> Topic {
        Topic::Conversation(*id)
    }

    fn is_unused(&self) -> bool {
        self.feed.is_unused()
    }

    fn sweep(&mut self) -> bool {
        self.feed.sweep()
    }
}

impl ConversationTopic {
    /// Up to where changes and messages were delivered; none while the feed has no position.
    pub(crate) fn position(&self) -> Option<(Rev, Seq)> {
        Some((self.feed.rev()?, self.newest))
    }

    /// Takes what is known of the members, and sets the position of a feed that has none.
    pub(crate) fn start_at(&mut self, standing: &Standing) -> Delivery {
        let head = &standing.head;
        self.members.set_standing(standing);
        if !self.feed.start_at(head.rev) {
            return Delivery::default();
        }
        self.newest = head.head_seq;
        self.deliver_early()
    }

    /// Takes a push from the bus.
    pub(crate) fn take(&mut self, push: Push) -> Delivery {
        let delivery = self.feed.take(push);
        self.newest.0 += delivery.new_messages;
        delivery
    }

    /// Delivers changes that were read from the log: all of those up to `through`, with messages up to `newest`.
    pub(crate) fn heal(&mut self, changes: Vec<Push>, through: Rev, newest: Seq) -> Delivery {
        let mut delivery = self.feed.catch_up(changes, through);
        // A new message that was deleted meanwhile counts as deleted, not as new.
        self.newest = Seq(self.newest.0 + delivery.new_messages).max(newest);
        delivery += self.deliver_early();
        delivery
    }

    /// Has every session load the conversation again, which stands at `head`, and goes on from there.
    pub(crate) fn reload_at(&mut self, head: ConversationHead) -> Delivery {
        let resync = Arc::new(ClientEvent::resync(vec![head], false));
        self.feed.skip_to(head.rev, &resync);
        self.newest = head.head_seq;
        self.deliver_early()
    }

    fn deliver_early(&mut self) -> Delivery {
        let delivery = self.feed.deliver_early();
        self.newest.0 += delivery.new_messages;
        delivery
    }

    /// Ends the listening of `session`.
    pub(crate) fn leave(&mut self, session: &Arc<Session>) {
        self.feed.unlisten(session);
        self.members.forget_onlooker(session);
    }
}
