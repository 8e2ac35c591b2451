//! The feed of one log on one node: it delivers the log's changes to the sessions that listen.
//!
//! Changes arrive from the bus in any order, twice, or not at all. The feed delivers them in the order of their revs, each
//! once (INV-PUSH). A change that arrives early is held until those before it are here. When they do not arrive, the feed
//! reports a gap ([`Delivery::gap`]); the [`Healer`](super::healing::Healer) then reads the missing changes from the log and
//! hands them to [`Feed::catch_up`]. Recent changes stay in [`Recent`] for sessions that resume.
//!
//! Upholds INV-BOUND: early and recent changes are bounded. No function here waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::commit_event::Left;
use backscroll_shard::ids::{Rev, UserId};

use super::recent::{CHANGES_MAX, Change, Recent};
use crate::client_event::ClientEvent;
use crate::push::{Push, PushKind, Topic};
use crate::session::Session;

/// How long a topic stays on the node after its last session left it, and how long recent changes stay, so that a session that
/// resumes soon finds them.
pub(super) const LINGER: Duration = Duration::from_secs(60);

/// What a feed did with the changes that it was given, and what its owner has to do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// How many new messages were delivered.
    pub(crate) new_messages: u64,
    /// A change is missing: the log has to be read.
    pub(crate) gap: bool,
    /// Members may have left, but the change does not say who: every session's membership has to be checked.
    pub(crate) members_unknown: bool,
}

impl std::ops::AddAssign for Delivery {
    fn add_assign(&mut self, more: Self) {
        self.new_messages += more.new_messages;
        self.gap |= more.gap;
        self.members_unknown |= more.members_unknown;
    }
}

/// Some of the changes that a session missed are no longer among the recent ones.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotKept;

#[derive(Debug)]
struct Listener {
    session: Arc<Session>,
    /// The session has all changes up to this rev.
    after: Rev,
}

/// The feed of a log.
#[derive(Debug)]
pub(crate) struct Feed {
    topic: Topic,
    /// The rev up to which changes were delivered; unknown until the log's position is.
    rev: Option<Rev>,
    listeners: Vec<Listener>,
    /// Changes that arrived before those that precede them.
    early: BTreeMap<Rev, Push>,
    recent: Recent,
    /// Whether a task reads the missing changes.
    pub(crate) healing: bool,
    /// Since when no session listens.
    idle_since: Option<Instant>,
}

impl Feed {
    /// A feed that no session listens to and whose position is unknown.
    #[must_use]
    pub(crate) fn new(topic: Topic) -> Self {
        Self {
            topic,
            rev: None,
            listeners: Vec::new(),
            early: BTreeMap::new(),
            recent: Recent::new(Rev(0)),
            healing: false,
            idle_since: Some(Instant::now()),
        }
    }

    /// The rev up to which changes were delivered.
    #[must_use]
    pub(crate) fn rev(&self) -> Option<Rev> {
        self.rev
    }

    /// The sessions that listen.
    pub(crate) fn listeners(&self) -> impl ExactSizeIterator<Item = &Arc<Session>> {
        self.listeners.iter().map(|listener| &listener.session)
    }

    /// Whether no session listens.
    #[must_use]
    pub(crate) fn is_unused(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Drops old recent changes; says whether no session has listened for [`LINGER`].
    pub(crate) fn sweep(&mut self) -> bool {
        if let Some(rev) = self.rev {
            self.recent.forget_after(LINGER, rev);
        }
        let idle = self.idle_since.map(|since| since.elapsed());
        self.is_unused() && idle.is_some_and(|idle| idle >= LINGER)
    }

    /// Sets the position of a feed that has none: the log stands at `rev`. Says whether it had none. The caller goes on with
    /// [`Feed::deliver_early`].
    pub(crate) fn start_at(&mut self, rev: Rev) -> bool {
        let starts = self.rev.is_none();
        if starts {
            self.rev = Some(rev);
            self.recent = Recent::new(rev);
        }
        starts
    }

    /// Lets `session` listen; it has all changes up to `after`. It receives `first`, and then the changes after `after`.
    ///
    /// # Errors
    /// [`NotKept`]; then the session does not listen.
    pub(crate) fn listen(
        &mut self,
        session: &Arc<Session>,
        after: Rev,
        first: Option<&Arc<ClientEvent>>,
    ) -> Result<(), NotKept> {
        if self.bytes_since(after).is_none() && self.rev.is_some() {
            return Err(NotKept);
        }
        if let Some(first) = first {
            session.outbox.put_event(first);
        }
        let missed = self.recent.since(after).into_iter().flatten();
        for event in missed.filter_map(|change| change.event.as_ref()) {
            session.outbox.put_event(event);
        }
        self.unlisten(session);
        self.listeners.push(Listener {
            session: Arc::clone(session),
            after,
        });
        self.idle_since = None;
        Ok(())
    }

    /// Whether `session` listens.
    pub(crate) fn listens(&self, session: &Arc<Session>) -> bool {
        self.listeners().any(|other| Arc::ptr_eq(other, session))
    }

    /// Ends the listening of `session`.
    pub(crate) fn unlisten(&mut self, session: &Arc<Session>) {
        let before = self.listeners.len();
        self.listeners
            .retain(|listener| !Arc::ptr_eq(&listener.session, session));
        if self.listeners.is_empty() && before > 0 {
            self.idle_since = Some(Instant::now());
        }
    }

    /// The size of the changes that a session with all changes up to `after` missed, in bytes; none when some of them are no
    /// longer among the recent ones.
    #[must_use]
    pub(crate) fn bytes_since(&self, after: Rev) -> Option<usize> {
        if after >= self.rev? {
            return Some(0);
        }
        self.recent.bytes_since(after)
    }

    /// Takes a push from the bus.
    pub(crate) fn take(&mut self, push: Push) -> Delivery {
        if !push.kind.is_durable() {
            self.deliver_state(&push);
            return Delivery::default();
        }
        let Some(rev) = self.rev else {
            self.hold(push);
            return Delivery::default();
        };
        if push.rev <= rev {
            return Delivery::default();
        }
        if push.rev > rev.next() {
            self.hold(push);
            return Delivery {
                gap: true,
                ..Delivery::default()
            };
        }
        let mut delivery = self.deliver(&push);
        delivery += self.deliver_early();
        delivery
    }

    /// Delivers a push that is no change of the log, such as typing and receipts.
    fn deliver_state(&self, push: &Push) {
        let Some(event) = ClientEvent::of(&self.topic, push).map(Arc::new) else {
            return;
        };
        // In a conversation, users do not receive their own typing; their own receipts reach them by their own topic.
        let not_to_its_user = matches!(self.topic, Topic::Conversation(_))
            && matches!(push.kind, PushKind::UserTyping | PushKind::MessagesRead);
        for session in self.listeners() {
            if !(not_to_its_user && push.user.as_ref() == Some(&session.user)) {
                session.outbox.put_event(&event);
            }
        }
    }

    /// Holds an early change. Those beyond the bound are dropped: the log has them.
    fn hold(&mut self, push: Push) {
        self.early.insert(push.rev, push);
        while self.early.len() > CHANGES_MAX {
            self.early.pop_last();
        }
    }

    /// Delivers a change, which is the next or comes from the log.
    fn deliver(&mut self, push: &Push) -> Delivery {
        let mut delivery = Delivery {
            new_messages: u64::from(push.kind == PushKind::NewMessage),
            ..Delivery::default()
        };
        self.rev = Some(push.rev);
        let event = ClientEvent::of(&self.topic, push).map(Arc::new);
        match &event {
            Some(event) => {
                for listener in &self.listeners {
                    if push.rev > listener.after {
                        listener.session.outbox.put_event(event);
                    }
                }
            }
            None => delivery.members_unknown = !self.remove_former_members(push),
        }
        self.recent.push(Change {
            rev: push.rev,
            event,
        });
        delivery
    }

    /// Expels the sessions of users who left the conversation by this change. `false` when the change does not say who left.
    fn remove_former_members(&mut self, push: &Push) -> bool {
        let has_left: Box<dyn Fn(&UserId) -> bool> = match serde_json::from_str(push.data.get()) {
            Ok(Left::Nobody) => return true,
            Ok(Left::One(user)) => Box::new(move |other| *other == user),
            Ok(Left::Everybody) => Box::new(|_| true),
            Err(_) => return false,
        };
        let Topic::Conversation(id) = self.topic else {
            return true;
        };
        let (gone, staying): (Vec<Listener>, Vec<Listener>) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|listener| push.rev > listener.after && has_left(&listener.session.user));
        self.listeners = staying;
        for listener in gone {
            listener.session.expel(id);
        }
        if self.listeners.is_empty() {
            self.idle_since.get_or_insert_with(Instant::now);
        }
        true
    }

    /// Whether early changes are held.
    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Drops the early changes: the log does not have them.
    pub(crate) fn forget_early(&mut self) {
        self.early = BTreeMap::new();
    }

    /// Delivers the early changes that are next.
    pub(crate) fn deliver_early(&mut self) -> Delivery {
        let mut delivery = Delivery::default();
        let Some(mut rev) = self.rev else {
            return delivery;
        };
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() <= rev {
                entry.remove();
            } else if *entry.key() == rev.next() {
                let push = entry.remove();
                rev = push.rev;
                delivery += self.deliver(&push);
            } else {
                delivery.gap = true;
                break;
            }
        }
        if self.early.is_empty() {
            self.early = BTreeMap::new(); // which frees its memory
        }
        delivery
    }

    /// Delivers changes that were read from the log: all of those up to `through`, in the order of their revs. The caller goes
    /// on with [`Feed::deliver_early`].
    pub(crate) fn catch_up(&mut self, changes: Vec<Push>, through: Rev) -> Delivery {
        let mut delivery = Delivery::default();
        for change in changes {
            if self.rev.is_none_or(|rev| change.rev > rev) {
                delivery += self.deliver(&change);
            }
        }
        if self.rev.is_none_or(|rev| through > rev) {
            self.rev = Some(through);
        }
        delivery
    }

    /// Gives up on the changes up to `rev`: every session receives `event`, which says so, and then the changes after `rev`. The
    /// caller goes on with [`Feed::deliver_early`].
    pub(crate) fn skip_to(&mut self, rev: Rev, event: &Arc<ClientEvent>) {
        self.recent = Recent::new(rev);
        self.rev = Some(rev);
        for listener in &mut self.listeners {
            listener.after = listener.after.min(rev);
            listener.session.outbox.put_event(event);
        }
    }

    /// Adds older changes to the recent ones, for a session that resumes at `after`: `changes` are all of those after `after`
    /// up to `through`. `false` when that does not reach the recent changes.
    pub(crate) fn extend_back(&mut self, after: Rev, changes: &[Push], through: Rev) -> bool {
        let older = changes.iter().map(|push| Change {
            rev: push.rev,
            event: ClientEvent::of(&self.topic, push).map(Arc::new),
        });
        self.recent.extend_back(after, through, older)
    }
}

#[cfg(test)]
mod tests;
