//! One topic on one node: who listens, up to which rev they were told, and the changes told lately.
//!
//! Changes come from the bus in any order, twice, or not at all; they are told in the order of their revs, each once
//! (INV-PUSH). One that comes early is held until those before it are here; when they do not come, the hub reads them from the
//! log and gives them to [`Channel::healed`]. What was told lately is kept, so that a listener that comes back is told
//! what it missed without asking the log.
//!
//! Upholds INV-BOUND: what is held and what is kept is bounded in number and bytes. Nothing in here waits.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId};
use backscroll_shard::model::RawJson;
use backscroll_shard::seams::Left;

use crate::client_event::ClientEvent;
use crate::push::{Push, PushKind, Topic};
use crate::session::Session;

/// Most changes kept, and held.
const KEPT_MAX: usize = 512;
/// Most bytes of changes kept.
const KEPT_BYTES_MAX: usize = 256 << 10;
/// In larger conversations nobody is told who types, or who of the members comes and goes.
pub(crate) const SMALL_MEMBERS_MAX: u64 = 50;

/// What the hub has to do after a push was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// A change is missing: read the log.
    pub(crate) heal: bool,
    /// Members may have changed: look who still is one.
    pub(crate) recheck: bool,
}

/// How a listener began.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It is told of everything after the rev it gave.
    Whole,
    /// What it missed is not kept: nothing was done.
    NotKept,
}

/// A change that was told.
#[derive(Clone, Debug)]
struct Kept {
    rev: Rev,
    /// None for a change that is no event for clients.
    event: Option<Arc<ClientEvent>>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.data().len())
    }
}

#[derive(Debug)]
struct Listener {
    session: Arc<Session>,
    /// It knows everything up to here.
    after: Rev,
    /// It is told which members come and go.
    sees_members: bool,
}

/// The state of a topic.
#[derive(Debug)]
pub(crate) struct Channel {
    topic: Topic,
    /// Up to where changes were told; unknown until the log was asked or, for lists, until one came.
    rev: Option<Rev>,
    /// The newest message that was told, in a conversation.
    head: Seq,
    listeners: Vec<Listener>,
    /// Changes that came early.
    held: BTreeMap<Rev, Push>,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// Everything after this is kept.
    kept_after: Rev,
    /// How many members the conversation had when it was asked last.
    members: u64,
    /// Who they are, where some listener is told which of them come and go.
    roster: Option<Arc<[UserId]>>,
    /// The open conversations in which a user is seen to come and go.
    seen_in: Vec<ConversationId>,
    /// Whether somebody reads what is missing.
    pub(crate) healing: bool,
    /// Whether somebody is about to look who still is a member.
    pub(crate) rechecking: bool,
    /// When something was told last.
    told_at: Instant,
    /// Since when nobody listens.
    pub(crate) idle_since: Option<Instant>,
    /// What was told last that is no change: presence is told again only when it differs.
    last_state: Option<Arc<RawJson>>,
}

impl Channel {
    /// A topic nobody listens to yet.
    #[must_use]
    pub(crate) fn new(topic: Topic) -> Self {
        Self {
            topic,
            rev: None,
            head: Seq(0),
            listeners: Vec::new(),
            held: BTreeMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            kept_after: Rev(0),
            members: 0,
            roster: None,
            seen_in: Vec::new(),
            healing: false,
            rechecking: false,
            told_at: Instant::now(),
            idle_since: Some(Instant::now()),
            last_state: None,
        }
    }

    /// Up to where changes were told.
    #[must_use]
    pub(crate) fn rev(&self) -> Option<Rev> {
        self.rev
    }

    /// The newest message that was told.
    #[must_use]
    pub(crate) fn head(&self) -> Seq {
        self.head
    }

    /// Whether the conversation is small enough to tell who types and who comes and goes.
    #[must_use]
    pub(crate) fn is_small(&self) -> bool {
        self.members <= SMALL_MEMBERS_MAX
    }

    /// Those who listen.
    pub(crate) fn listeners(&self) -> impl ExactSizeIterator<Item = &Arc<Session>> {
        self.listeners.iter().map(|listener| &listener.session)
    }

    /// Whether anybody listens.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.seen_in.is_empty()
    }

    /// The log stands at `rev` and `head`: what is told begins there, when that was unknown.
    pub(crate) fn begin(&mut self, rev: Rev, head: Seq, members: u64) -> Todo {
        self.members = members;
        if self.rev.is_some() {
            return Todo::default();
        }
        self.rev = Some(rev);
        self.head = head;
        self.kept_after = rev;
        self.tell_held()
    }

    /// `session`, which knows everything up to `after`, listens from now on. It is told `first`, and then what was told after
    /// `after`.
    pub(crate) fn listen(
        &mut self,
        session: &Arc<Session>,
        after: Rev,
        first: Option<&Arc<ClientEvent>>,
    ) -> Start {
        if self.kept_since(after).is_none() && self.rev.is_some() {
            return Start::NotKept;
        }
        if let Some(first) = first {
            session.outbox.put_event(first);
        }
        for kept in self.kept.iter().filter(|kept| kept.rev > after) {
            if let Some(event) = &kept.event {
                session.outbox.put_event(event);
            }
        }
        self.unlisten(session);
        self.listeners.push(Listener {
            session: Arc::clone(session),
            after,
            sees_members: false,
        });
        self.idle_since = None;
        Start::Whole
    }

    /// `session` is told which members come and go from now on, if it listens.
    pub(crate) fn show_members_to(&mut self, session: &Arc<Session>) {
        let mut listeners = self.listeners.iter_mut();
        if let Some(listener) = listeners.find(|one| Arc::ptr_eq(&one.session, session)) {
            listener.sees_members = true;
        }
    }

    /// A listener that is told which members come and go.
    pub(crate) fn onlooker(&self) -> Option<&Arc<Session>> {
        let mut listeners = self.listeners.iter();
        listeners
            .find(|listener| listener.sees_members)
            .map(|listener| &listener.session)
    }

    /// Who the members are, where that was asked.
    pub(crate) fn roster(&self) -> Option<Arc<[UserId]>> {
        self.roster.clone()
    }

    /// Takes who the members are; none when they have changed.
    pub(crate) fn set_roster(&mut self, roster: Option<Arc<[UserId]>>) {
        self.roster = roster;
    }

    /// There are more members than there were: it is no longer small.
    pub(crate) fn outgrow(&mut self) {
        self.members = self.members.max(SMALL_MEMBERS_MAX + 1);
        self.roster = None;
    }

    /// A user's presence is told in `conversation` too.
    pub(crate) fn see_in(&mut self, conversation: ConversationId) {
        if !self.seen_in.contains(&conversation) {
            self.seen_in.push(conversation);
        }
    }

    /// Where a user's presence is told.
    pub(crate) fn seen_in(&self) -> &[ConversationId] {
        &self.seen_in
    }

    /// A user's presence is no longer told in `conversation`.
    pub(crate) fn unsee_in(&mut self, conversation: ConversationId) {
        self.seen_in.retain(|other| *other != conversation);
    }

    /// Whether `user` is known to be a member.
    pub(crate) fn knows(&self, user: &UserId) -> bool {
        let mut roster = self.roster.iter().flat_map(|roster| roster.iter());
        roster.any(|member| member == user)
    }

    /// Tells that the member `user` came or went to those who are told so, have not said whom they watch, and are not in
    /// `told` yet.
    pub(crate) fn tell_member(
        &self,
        user: &UserId,
        event: &Arc<ClientEvent>,
        told: &mut HashSet<u64>,
    ) {
        for Listener { session, .. } in self.listeners.iter().filter(|one| one.sees_members) {
            if session.user != *user && !session.names_watched() && told.insert(session.id) {
                session.outbox.put_event(event);
            }
        }
    }

    /// How many bytes of changes after `after` a new listener would be told; none when they are not kept.
    #[must_use]
    pub(crate) fn kept_since(&self, after: Rev) -> Option<usize> {
        let rev = self.rev?;
        if after >= rev {
            return Some(0);
        }
        let missed = self.kept.iter().filter(|kept| kept.rev > after);
        (after >= self.kept_after).then(|| missed.map(Kept::bytes).sum())
    }

    /// `session` no longer listens. Says whether it did.
    pub(crate) fn unlisten(&mut self, session: &Arc<Session>) -> bool {
        let before = self.listeners.len();
        self.listeners
            .retain(|listener| !Arc::ptr_eq(&listener.session, session));
        if self.listeners.is_empty() && before > 0 {
            self.idle_since = Some(Instant::now());
        }
        self.listeners.len() < before
    }

    /// Takes what came over the bus.
    pub(crate) fn take(&mut self, push: Push) -> Todo {
        if !push.kind.is_durable() {
            self.tell_at_once(&push);
            return Todo::default();
        }
        let Some(rev) = self.rev else {
            self.hold(push);
            return Todo::default();
        };
        if push.rev <= rev {
            return Todo::default();
        }
        if push.rev > rev.next() {
            self.hold(push);
            return Todo {
                heal: true,
                recheck: false,
            };
        }
        let recheck = self.tell(&push);
        let mut todo = self.tell_held();
        todo.recheck |= recheck;
        todo
    }

    /// Notes what somebody who begins to watch a user was told otherwise. Where the others were told something else,
    /// whatever comes next is told.
    pub(crate) fn note_state(&mut self, data: Arc<RawJson>) {
        if self.listeners.len() < 2 {
            self.last_state = Some(data);
        } else if self.last_state.as_ref().is_some_and(|last| **last != *data) {
            self.last_state = None;
        }
    }

    /// What was told last that is no change.
    pub(crate) fn last_state(&self) -> Option<&RawJson> {
        self.last_state.as_deref()
    }

    /// What was told long ago is no longer kept: whoever comes back that late asks the log.
    pub(crate) fn forget_old(&mut self, age: std::time::Duration) {
        if let Some(rev) = self.rev
            && !self.kept.is_empty()
            && self.told_at.elapsed() > age
        {
            self.kept = VecDeque::new();
            self.kept_bytes = 0;
            self.kept_after = rev;
        }
    }

    /// Tells that a user came or went, unless that was told last. Gives what was told, for the conversations in which it is
    /// told too.
    pub(crate) fn tell_presence(&mut self, push: &Push) -> Option<Arc<ClientEvent>> {
        if self
            .last_state
            .as_ref()
            .is_some_and(|last| **last == *push.data)
        {
            return None;
        }
        let event = Arc::new(ClientEvent::of(&self.topic, push)?);
        self.last_state = Some(Arc::clone(&push.data));
        for listener in &self.listeners {
            listener.session.outbox.put_event(&event);
        }
        Some(event)
    }

    /// Tells what is in no log.
    fn tell_at_once(&mut self, push: &Push) {
        let Some(event) = ClientEvent::of(&self.topic, push).map(Arc::new) else {
            return;
        };
        for listener in &self.listeners {
            // One's own typing is no news, and what one has read comes by one's own topic.
            let own = matches!(self.topic, Topic::Conversation(_))
                && matches!(push.kind, PushKind::UserTyping | PushKind::MessagesRead)
                && push.user.as_ref() == Some(&listener.session.user);
            if !own {
                listener.session.outbox.put_event(&event);
            }
        }
    }

    /// What is held beyond the bound is forgotten: the log has it.
    fn hold(&mut self, push: Push) {
        self.held.insert(push.rev, push);
        while self.held.len() > KEPT_MAX {
            self.held.pop_last();
        }
    }

    /// Tells a change, which is the next or comes from the log; says whether members may have changed.
    fn tell(&mut self, push: &Push) -> bool {
        let rev = push.rev;
        self.rev = Some(rev);
        if push.kind == PushKind::NewMessage {
            self.head = self.head.next();
        }
        let kept = Kept {
            rev,
            event: ClientEvent::of(&self.topic, push).map(Arc::new),
        };
        self.told_at = Instant::now();
        let recheck = match &kept.event {
            None => self.part_with(push),
            Some(event) => {
                for listener in &self.listeners {
                    if rev > listener.after {
                        listener.session.outbox.put_event(event);
                    }
                }
                false
            }
        };
        self.keep(kept);
        recheck
    }

    /// Those who left hear nothing more. Says whether it is not known who that is.
    fn part_with(&mut self, push: &Push) -> bool {
        let gone: Box<dyn Fn(&UserId) -> bool> = match serde_json::from_str(push.data.get()) {
            Ok(Left::Nobody) => return false,
            Ok(Left::One(user)) => Box::new(move |other| *other == user),
            Ok(Left::Everybody) => Box::new(|_| true),
            Err(_) => return true,
        };
        let Topic::Conversation(id) = self.topic else {
            return false;
        };
        let (gone, staying): (Vec<Listener>, Vec<Listener>) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|listener| push.rev > listener.after && gone(&listener.session.user));
        self.listeners = staying;
        for listener in gone {
            listener.session.expel(id);
        }
        if self.listeners.is_empty() {
            self.idle_since.get_or_insert_with(Instant::now);
        }
        false
    }

    fn keep(&mut self, kept: Kept) {
        self.kept_bytes += kept.bytes();
        self.kept.push_back(kept);
        while self.kept.len() > KEPT_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= oldest.bytes();
            self.kept_after = oldest.rev;
        }
    }

    /// Whether something came early.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is held is of no log.
    pub(crate) fn forget_held(&mut self) {
        self.held = BTreeMap::new();
    }

    /// Tells what is held and follows.
    fn tell_held(&mut self) -> Todo {
        let mut todo = Todo::default();
        let Some(mut rev) = self.rev else {
            return todo;
        };
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() <= rev {
                entry.remove();
            } else if *entry.key() == rev.next() {
                let push = entry.remove();
                rev = push.rev;
                todo.recheck |= self.tell(&push);
            } else {
                todo.heal = true;
                break;
            }
        }
        if self.held.is_empty() {
            self.held = BTreeMap::new();
        }
        todo
    }

    /// Tells what was read from the log: `changes` in the order of their revs, which are all that happened up to `through`.
    pub(crate) fn healed(&mut self, changes: Vec<Push>, through: Rev, head: Seq) -> Todo {
        for change in changes {
            if self.rev.is_none_or(|rev| change.rev > rev) {
                self.tell(&change);
            }
        }
        if self.rev.is_none_or(|rev| through > rev) {
            self.rev = Some(through);
        }
        self.head = self.head.max(head);
        self.tell_held()
    }

    /// Too much is missing: `told` is told to everybody, and changes are told from `rev` on.
    pub(crate) fn skip_to(&mut self, rev: Rev, head: Seq, told: &Arc<ClientEvent>) -> Todo {
        self.kept.clear();
        self.kept_bytes = 0;
        self.kept_after = rev;
        self.rev = Some(rev);
        self.head = head;
        for listener in &mut self.listeners {
            listener.after = listener.after.min(rev);
            listener.session.outbox.put_event(told);
        }
        self.tell_held()
    }

    /// Everything that happened after `after` becomes kept: somebody who comes back wants it. `changes` are all of it up to
    /// `through`; `false` when that does not reach what is kept already.
    pub(crate) fn keep_from(&mut self, after: Rev, changes: Vec<Push>, through: Rev) -> bool {
        if after >= self.kept_after {
            return true;
        }
        if through < self.kept_after {
            return false;
        }
        let older: Vec<Kept> = changes
            .into_iter()
            .filter(|change| change.rev > after && change.rev <= self.kept_after)
            .map(|change| Kept {
                rev: change.rev,
                event: ClientEvent::of(&self.topic, &change).map(Arc::new),
            })
            .collect();
        let kept = std::mem::take(&mut self.kept);
        self.kept_bytes = 0;
        self.kept_after = after;
        self.told_at = Instant::now();
        for kept in older.into_iter().chain(kept) {
            self.keep(kept);
        }
        true
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

    fn channel(rev: u64) -> Channel {
        let mut channel = Channel::new(topic());
        channel.begin(Rev(rev), Seq(rev), 2);
        channel
    }

    async fn told(session: &Session) -> Vec<u64> {
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
        let mut channel = channel(5);
        let session = Session::test("alice");
        assert_eq!(channel.listen(&session, Rev(5), None), Start::Whole);
        assert!(channel.take(change(7)).heal);
        assert!(channel.take(change(8)).heal);
        assert_eq!(told(&session).await, Vec::<u64>::new());
        assert!(!channel.take(change(6)).heal);
        assert_eq!(told(&session).await, [6, 7, 8]);
        channel.take(change(7));
        assert_eq!(told(&session).await, Vec::<u64>::new(), "told once");
    }

    #[tokio::test]
    async fn what_is_lost_is_healed_from_the_log() {
        let mut channel = channel(5);
        let session = Session::test("alice");
        channel.listen(&session, Rev(5), None);
        channel.take(change(9));
        let todo = channel.healed(vec![change(7), change(8)], Rev(8), Seq(8));
        assert_eq!(todo, Todo::default());
        assert_eq!(told(&session).await, [7, 8, 9]);
    }

    #[tokio::test]
    async fn who_comes_back_is_told_what_is_kept_or_nothing() {
        let mut channel = channel(5);
        for rev in 6..=8 {
            channel.take(change(rev));
        }
        let (early, late) = (Session::test("alice"), Session::test("bob"));
        assert_eq!(channel.listen(&early, Rev(4), None), Start::NotKept);
        assert_eq!(channel.listen(&late, Rev(6), None), Start::Whole);
        assert_eq!(told(&late).await, [7, 8]);
        assert!(
            !channel.keep_from(Rev(3), vec![change(4)], Rev(4)),
            "it would leave a hole"
        );
        assert!(channel.keep_from(Rev(3), vec![change(4), change(5), change(6)], Rev(6)));
        assert_eq!(channel.kept_since(Rev(3)), Some(5));
        assert_eq!(channel.listen(&early, Rev(4), None), Start::Whole);
        assert_eq!(told(&early).await, [5, 6, 7, 8]);
    }

    #[tokio::test]
    async fn who_knows_more_than_the_node_is_not_told_again() {
        let mut channel = channel(5);
        let session = Session::test("alice");
        channel.listen(&session, Rev(7), None);
        for rev in 6..=8 {
            channel.take(change(rev));
        }
        assert_eq!(told(&session).await, [8]);
    }

    #[tokio::test]
    async fn who_left_hears_nothing_more() {
        let mut channel = channel(5);
        let (alice, bob) = (Session::test("alice"), Session::test("bob"));
        for session in [&alice, &bob] {
            assert!(session.record_join(ConversationId::new(UserKey(1), 2)));
            channel.listen(session, Rev(5), None);
        }
        channel.take(change(7));
        let left = Push::change(
            PushKind::ConversationChanged,
            Rev(6),
            &Left::One(bob.user.clone()),
        );
        assert_eq!(channel.take(left), Todo::default());
        assert_eq!(told(&alice).await, [7]);
        let mut items = Vec::new();
        bob.outbox.next(&mut items, 10).await.unwrap();
        let [Item::Event(event)] = &items[..] else {
            panic!("{items:?}");
        };
        assert_eq!(event.name(), "left_conversation");
        assert!(!bob.has_joined(ConversationId::new(UserKey(1), 2)));
        let deleted = Push::change(PushKind::ConversationChanged, Rev(8), &Left::Everybody);
        channel.take(deleted);
        assert!(channel.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut channel = channel(0);
        for rev in 1..=2000 {
            channel.take(change(rev));
        }
        assert_eq!(channel.kept.len(), KEPT_MAX);
        assert_eq!(channel.kept_after, Rev(2000 - KEPT_MAX as u64));
        for rev in 3000..6000 {
            channel.take(change(rev));
        }
        assert_eq!(channel.held.len(), KEPT_MAX);
    }

    proptest! {
        /// Whatever is lost, doubled or late, with the log asked wherever the channel says so, everybody ends with all of it.
        #[test]
        fn everybody_is_told_everything_once_in_order(
            revs in proptest::collection::vec(1..60u64, 0..150),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut channel = channel(0);
            let session = Session::test("alice");
            channel.listen(&session, Rev(0), None);
            let mut newest = 0;
            for rev in revs {
                newest = newest.max(rev);
                if channel.take(change(rev)).heal && rev % 3 == 0 {
                    let from = channel.rev().unwrap().0 + 1;
                    channel.healed((from..=newest).map(change).collect(), Rev(newest), Seq(newest));
                }
            }
            let from = channel.rev().unwrap().0 + 1;
            channel.healed((from..=newest).map(change).collect(), Rev(newest), Seq(newest));
            let told = runtime.block_on(told(&session));
            prop_assert_eq!(told, (1..=newest).collect::<Vec<_>>());
        }
    }
}
