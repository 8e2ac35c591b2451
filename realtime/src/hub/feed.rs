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

use backscroll_shard::ids::{Rev, UserId};
use backscroll_shard::seams::Left;

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
mod tests {
    use backscroll_shard::ids::{ConversationId, UserKey};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::outbox::Item;

    fn topic() -> Topic {
        Topic::Conversation(ConversationId::new(UserKey(1), 2))
    }

    fn change(rev: u64) -> Push {
        Push::change(PushKind::NewMessage, Rev(rev), &json!(rev))
    }

    fn feed(rev: u64) -> Feed {
        let mut feed = Feed::new(topic());
        assert!(feed.start_at(Rev(rev)));
        feed
    }

    /// Hands the feed `changes` from the log.
    fn heal(feed: &mut Feed, changes: Vec<Push>, through: u64) -> Delivery {
        let mut delivery = feed.catch_up(changes, Rev(through));
        delivery += feed.deliver_early();
        delivery
    }

    async fn received(session: &Session) -> Vec<u64> {
        let mut items = Vec::new();
        if session.outbox.bytes() > 0 {
            session.outbox.next(&mut items, 10_000).await.unwrap();
        }
        let number = |item| match item {
            Item::Event(event) => event.data().parse().unwrap(),
            other => panic!("{other:?}"),
        };
        items.into_iter().map(number).collect()
    }

    #[tokio::test]
    async fn early_changes_wait_for_those_before_them() {
        let mut feed = feed(5);
        let session = Session::test("alice");
        assert_eq!(feed.listen(&session, Rev(5), None), Ok(()));
        assert!(feed.take(change(7)).gap);
        assert!(feed.take(change(8)).gap);
        assert_eq!(received(&session).await, Vec::<u64>::new());
        assert!(!feed.take(change(6)).gap);
        assert_eq!(received(&session).await, [6, 7, 8]);
        feed.take(change(7));
        assert_eq!(
            received(&session).await,
            Vec::<u64>::new(),
            "delivered once"
        );
    }

    #[tokio::test]
    async fn a_lost_change_is_healed_from_the_log() {
        let mut feed = feed(5);
        let session = Session::test("alice");
        feed.listen(&session, Rev(5), None).unwrap();
        feed.take(change(9));
        let delivery = heal(&mut feed, vec![change(7), change(8)], 8);
        assert_eq!((delivery.new_messages, delivery.gap), (3, false));
        assert_eq!(received(&session).await, [7, 8, 9]);
    }

    #[tokio::test]
    async fn a_session_that_resumes_receives_all_recent_changes_or_none() {
        let mut feed = feed(5);
        for rev in 6..=8 {
            feed.take(change(rev));
        }
        let (early, late) = (Session::test("alice"), Session::test("bob"));
        assert_eq!(feed.listen(&early, Rev(4), None), Err(NotKept));
        assert_eq!(feed.listen(&late, Rev(6), None), Ok(()));
        assert_eq!(received(&late).await, [7, 8]);
        assert!(
            !feed.extend_back(Rev(3), &[change(4)], Rev(4)),
            "it would leave a hole"
        );
        assert!(feed.extend_back(Rev(3), &[change(4), change(5), change(6)], Rev(6)));
        assert_eq!(feed.bytes_since(Rev(3)), Some(5));
        assert_eq!(feed.listen(&early, Rev(4), None), Ok(()));
        assert_eq!(received(&early).await, [5, 6, 7, 8]);
    }

    #[tokio::test]
    async fn a_session_ahead_of_the_node_receives_no_change_twice() {
        let mut feed = feed(5);
        let session = Session::test("alice");
        feed.listen(&session, Rev(7), None).unwrap();
        for rev in 6..=8 {
            feed.take(change(rev));
        }
        assert_eq!(received(&session).await, [8]);
    }

    #[tokio::test]
    async fn a_former_member_receives_no_more_changes() {
        let mut feed = feed(5);
        let (alice, bob) = (Session::test("alice"), Session::test("bob"));
        for session in [&alice, &bob] {
            assert!(session.record_join(ConversationId::new(UserKey(1), 2)));
            feed.listen(session, Rev(5), None).unwrap();
        }
        feed.take(change(7));
        let left = Push::change(
            PushKind::ConversationChanged,
            Rev(6),
            &Left::One(bob.user.clone()),
        );
        let delivery = feed.take(left);
        assert!(!delivery.gap && !delivery.members_unknown, "{delivery:?}");
        assert_eq!(received(&alice).await, [7]);
        let mut items = Vec::new();
        bob.outbox.next(&mut items, 10).await.unwrap();
        let [Item::Event(event)] = &items[..] else {
            panic!("{items:?}");
        };
        assert_eq!(event.name(), "left_conversation");
        assert!(!bob.has_joined(ConversationId::new(UserKey(1), 2)));
        let deleted = Push::change(PushKind::ConversationChanged, Rev(8), &Left::Everybody);
        feed.take(deleted);
        assert!(feed.is_unused());
    }

    #[test]
    fn early_and_recent_changes_are_bounded() {
        let mut feed = feed(0);
        for rev in 1..=2000 {
            feed.take(change(rev));
        }
        assert_eq!(feed.recent.len(), CHANGES_MAX);
        assert_eq!(feed.recent.after(), Rev(2000 - CHANGES_MAX as u64));
        for rev in 3000..6000 {
            feed.take(change(rev));
        }
        assert_eq!(feed.early.len(), CHANGES_MAX);
    }

    proptest! {
        /// Whatever is lost, doubled or late: when the log is read wherever the feed reports a gap, a session ends with all
        /// of it.
        #[test]
        fn a_session_receives_every_change_once_in_order(
            revs in proptest::collection::vec(1..60u64, 0..150),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut feed = feed(0);
            let session = Session::test("alice");
            feed.listen(&session, Rev(0), None).unwrap();
            let mut newest = 0;
            for rev in revs {
                newest = newest.max(rev);
                if feed.take(change(rev)).gap && rev % 3 == 0 {
                    let from = feed.rev().unwrap().0 + 1;
                    heal(&mut feed, (from..=newest).map(change).collect(), newest);
                }
            }
            let from = feed.rev().unwrap().0 + 1;
            heal(&mut feed, (from..=newest).map(change).collect(), newest);
            let received = runtime.block_on(super::tests::received(&session));
            prop_assert_eq!(received, (1..=newest).collect::<Vec<_>>());
        }
    }
}
