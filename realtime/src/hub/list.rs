//! The state of a user's topic: the feed of their conversation list, to which all their sessions listen.

use std::sync::Arc;

use backscroll_shard::ids::{Rev, UserId};

use super::feed::{Delivery, Feed};
use super::topic_state::TopicState;
use crate::client_event::ClientEvent;
use crate::push::{Push, Topic};

/// The state of a user's topic.
#[derive(Debug)]
pub(crate) struct ListTopic {
    /// Its revs are the user's, over the entries of their list.
    pub(crate) feed: Feed,
}

impl TopicState for ListTopic {
    type Key = UserId;

    fn new(user: &UserId) -> Self {
        Self {
            feed: Feed::new(Self::topic(user)),
        }
    }

    fn topic(user: &UserId) -> Topic {
        Topic::User(user.clone())
    }

    fn is_unused(&self) -> bool {
        self.feed.is_unused()
    }

    fn sweep(&mut self) -> bool {
        self.feed.sweep()
    }
}

impl ListTopic {
    /// Sets the position of a feed that has none.
    pub(crate) fn start_at(&mut self, rev: Rev) -> Delivery {
        if self.feed.start_at(rev) {
            self.feed.deliver_early()
        } else {
            Delivery::default()
        }
    }

    /// Delivers changes that were read from the log, all of those up to `through`.
    pub(crate) fn heal(&mut self, changes: Vec<Push>, through: Rev) -> Delivery {
        let mut delivery = self.feed.catch_up(changes, through);
        delivery += self.feed.deliver_early();
        delivery
    }

    /// Has every session load the list again, which stands at `rev`, and goes on from there.
    pub(crate) fn reload_at(&mut self, rev: Rev) -> Delivery {
        let resync = Arc::new(ClientEvent::resync(Vec::new(), true));
        self.feed.skip_to(rev, &resync);
        self.feed.deliver_early()
    }
}
