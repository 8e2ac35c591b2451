//! A node's topics: who listens to what, and that all of it is told.
//!
//! A topic is subscribed to on the bus once, however many sessions listen, and stays for [`LINGER`] after the last has left, for
//! those who come back. What the bus brings goes through a few workers, by topic, so that a topic's pushes stay in order and
//! nobody who publishes waits. The log is asked in three cases only: a rev is missing, which one read heals for all
//! ([`Hub::heal`]); the audit, which compares revs with the log in batches, finds that the last push of a topic was lost; and
//! somebody comes back who missed more than is kept. So whatever the bus loses, every listener ends with the log (INV-PUSH).
//!
//! Who listens to a conversation is a member: that is asked when they begin, and again whenever its members may have changed
//! (INV-MEMBER). A crash leaves nothing behind.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId};
use backscroll_shard::model::{
    Caller, ConversationChanges, ConversationHead, ListEntry, Message, RawJson,
};
use backscroll_shard::store::{Standing, Store};
use backscroll_shard::sync::Delta;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::Batcher;
use crate::bus::{Bus, Receiver, SILENCE_MAX, Status};
use crate::channel::{Channel, SMALL_MEMBERS_MAX, Start, Todo};
use crate::client_event::ClientEvent;
use crate::protocol::events::EventName;
use crate::protocol::{Presence, UserTyping};
use crate::publisher::{entry_push, message_push};
use crate::push::{Push, PushKind, Topic};
use crate::session::Session;
use crate::settings::RealtimeSettings;

/// Into how many parts the topics are divided.
const PARTS: usize = 64;
/// How many workers take pushes; each topic has one of them.
const WORKERS: usize = 4;
/// Most pushes that wait for a worker.
const QUEUE: usize = 16_384;
/// How long a topic stays after its last listener has left.
const LINGER: Duration = Duration::from_secs(60);
/// How long a missing change may be on its way before the log is asked.
const LATE: Duration = Duration::from_millis(100);
/// How long what a healed or joined topic asks may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a question of many may take, the questions before it included.
const ASK_TIMEOUT: Duration = Duration::from_secs(8);
/// How many reads of the log may be under way: others need the connections too.
const READS: usize = 8;
/// From how many listeners on the workers make a pause after a push.
const CROWD: usize = 1000;
/// How long to wait before a read that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Beyond so many listeners, changes of members are gathered for a moment.
const RECHECKED_AT_ONCE: usize = 100;
/// How often the logs are compared while the bus may be dead.
const AUDIT_IN_DOUBT: Duration = Duration::from_secs(2);
/// Most topics compared at once.
const AUDIT_BATCH: usize = 4096;
/// Most changes that are told to one who comes back, in all their conversations together; beyond, they load pages.
pub(crate) const REPLAY_MAX: usize = 300;

type Cell = Arc<Entry>;

/// A topic on this node.
#[derive(Debug)]
struct Entry {
    topic: Topic,
    channel: Mutex<Channel>,
    subscribed: tokio::sync::OnceCell<()>,
    /// Held by the one who reads what somebody missed.
    filling: tokio::sync::Mutex<()>,
}

impl Entry {
    fn channel(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a session came to listen to a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Joined {
    /// It is told of everything after what it knew.
    Whole(ConversationHead),
    /// It is told of everything after this; what it missed before is too much.
    Refused(ConversationHead),
}

/// The topics of a node.
pub struct Hub {
    store: Arc<Store>,
    bus: Arc<dyn Bus>,
    parts: Vec<Mutex<HashMap<Topic, Cell>>>,
    hasher: RandomState,
    workers: Vec<mpsc::Sender<(Topic, Push)>>,
    standings: Batcher<(ConversationId, UserId), Option<Standing>>,
    list_revs: Batcher<UserId, Rev>,
    in_doubt: Notify,
    reads: Semaphore,
    replay_bytes: usize,
    tasks: TaskTracker,
    closing: CancellationToken,
    this: Weak<Self>,
}

impl Hub {
    /// Starts a node's hub on `bus`.
    #[must_use]
    pub fn start(store: Arc<Store>, bus: &Arc<dyn Bus>, settings: &RealtimeSettings) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let mut queues = Vec::with_capacity(WORKERS);
        let mut workers = Vec::with_capacity(WORKERS);
        for _ in 0..WORKERS {
            let (queue, pushes) = mpsc::channel(QUEUE);
            workers.push(queue);
            queues.push(pushes);
        }
        let asked = Arc::clone(&store);
        let standings = Batcher::start(
            (&tasks, &closing),
            move |pairs: Vec<(ConversationId, UserId)>| {
                let store = Arc::clone(&asked);
                async move { store.standings(&pairs, Instant::now() + PATIENCE).await }
            },
        );
        let asked = Arc::clone(&store);
        let list_revs = Batcher::start((&tasks, &closing), move |users: Vec<UserId>| {
            let store = Arc::clone(&asked);
            async move { store.list_revs(&users, Instant::now() + PATIENCE).await }
        });
        let hub = Arc::new_cyclic(|this| Self {
            store,
            bus: Arc::clone(bus),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            workers,
            standings,
            list_revs,
            in_doubt: Notify::new(),
            reads: Semaphore::new(READS),
            replay_bytes: settings.queue_bytes / 2,
            tasks,
            closing,
            this: Weak::clone(this),
        });
        for pushes in queues {
            hub.tasks.spawn(Arc::clone(&hub).work(pushes));
        }
        hub.tasks
            .spawn(Arc::clone(&hub).audit(settings.audit_interval.0));
        let receiver: Weak<dyn Receiver> = Arc::downgrade(&hub) as Weak<dyn Receiver>;
        bus.attach(receiver);
        hub
    }

    /// Ends its tasks.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(PATIENCE, self.tasks.wait()).await;
    }

    fn position(&self, topic: &Topic) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of the hash will do"
        )]
        let hash = self.hasher.hash_one(topic) as usize;
        hash
    }

    fn part(&self, topic: &Topic) -> MutexGuard<'_, HashMap<Topic, Cell>> {
        self.parts[self.position(topic) % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, topic: &Topic) -> Option<Cell> {
        self.part(topic).get(topic).cloned()
    }

    /// The topic, subscribed to. When the bus is away it is all the same: the audit finds what is not brought.
    async fn entry(&self, topic: Topic) -> Cell {
        let entry = {
            let mut part = self.part(&topic);
            let entry = part.entry(topic.clone()).or_insert_with(|| {
                Arc::new(Entry {
                    channel: Mutex::new(Channel::new(topic.clone())),
                    topic,
                    subscribed: tokio::sync::OnceCell::new(),
                    filling: tokio::sync::Mutex::default(),
                })
            });
            Arc::clone(entry) // which keeps it from being swept until they listen
        };
        if self.is_in_doubt() {
            // It would only be waited for. The bus keeps it for when it is back, and the audit finds what it does not bring.
            if let Some(hub) = self.this.upgrade() {
                let entry = Arc::clone(&entry);
                self.tasks.spawn(async move { hub.subscribe(&entry).await });
            }
        } else {
            self.subscribe(&entry).await;
        }
        entry
    }

    async fn subscribe(&self, entry: &Entry) {
        let subscribing = || async {
            if let Err(error) = self.bus.subscribe(entry.topic.clone()).await {
                tracing::debug!(%error, "a topic is not heard from other nodes yet");
            }
        };
        entry.subscribed.get_or_init(subscribing).await;
    }

    /// Whether the bus may be dead.
    fn is_in_doubt(&self) -> bool {
        self.bus
            .silence()
            .is_some_and(|silence| silence > SILENCE_MAX)
    }

    /// Opens a conversation for `session`, which knows it up to `known`; without that, from where it stands now, which it is
    /// told first. `room` is how many changes it may be told in all.
    ///
    /// # Errors
    /// [`Error::NotMember`]; [`Error::DeadlineExceeded`] when the log cannot be asked just now.
    pub(crate) async fn join(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
        known: Option<Rev>,
        room: &AtomicUsize,
    ) -> Result<Joined> {
        let entry = self.entry(Topic::Conversation(id)).await;
        let standing = match self.standing(id, session).await {
            Ok(standing) => standing,
            Err(error) => {
                if matches!(error, Error::NotMember) {
                    self.expel(session, id); // who had it open and asks again
                }
                self.drop_unused(&entry);
                return Err(error);
            }
        };
        let head = standing.head;
        let begun = {
            let mut channel = entry.channel();
            let mut begun = channel.begin(head.rev, head.head_seq, standing.member_count);
            begun.heal |= channel.rev().is_some_and(|told| told < head.rev);
            begun
        };
        self.follow_up(&entry, begun);
        // Noted before it listens, so that who is expelled meanwhile is told.
        if !session.record_join(id) {
            return Err(Error::Closing);
        }
        let whole = match known {
            Some(known) if known > head.rev => false, // of a log that was set back, or never was
            Some(known) => self.catch_up(&entry, session, known, &head, room).await,
            None => false,
        };
        if !whole {
            let announced = Arc::new(ClientEvent::new(EventName::JoinedConversation, &head));
            let first = known.is_none().then_some(&announced);
            // From where it stands; what came since is kept, or it stands there anew.
            let mut after = head.rev;
            while entry.channel().listen(session, after, first) == Start::NotKept {
                after = entry.channel().rev().unwrap_or(after);
            }
        }
        let ahead = entry.channel().rev().is_some_and(|told| told > head.rev);
        if ahead && matches!(self.standing(id, session).await, Err(Error::NotMember)) {
            self.expel(session, id); // since it was asked first
        }
        if !session.has_joined(id) {
            self.leave(session, &entry.topic);
            return Err(Error::NotMember);
        }
        Ok(if whole || known.is_none() {
            Joined::Whole(head)
        } else {
            Joined::Refused(head)
        })
    }

    async fn standing(&self, id: ConversationId, session: &Session) -> Result<Standing> {
        let asked = self.standings.ask((id, session.user.clone()));
        let answer = tokio::time::timeout(ASK_TIMEOUT, asked)
            .await
            .ok()
            .flatten();
        answer
            .ok_or(Error::DeadlineExceeded)?
            .ok_or(Error::NotMember)
    }

    /// Forgets a topic that somebody asked for who may not listen to it.
    fn drop_unused(&self, entry: &Cell) {
        let mut part = self.part(&entry.topic);
        // Held by the map and by the caller.
        if Arc::strong_count(entry) == 2 && entry.channel().is_empty() {
            part.remove(&entry.topic);
            self.bus.unsubscribe(&entry.topic);
        }
    }

    /// Tells `session` what it missed since `known`, and everything from then on. `false` when that is too much: nothing was
    /// done.
    async fn catch_up(
        &self,
        entry: &Cell,
        session: &Arc<Session>,
        known: Rev,
        head: &ConversationHead,
        room: &AtomicUsize,
    ) -> bool {
        let missed = usize::try_from(head.rev.0 - known.0).unwrap_or(usize::MAX);
        let take = |room: usize| room.checked_sub(missed);
        if room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_err()
        {
            return false;
        }
        if let Some(listens) = self.listen_from(entry, session, known) {
            return listens;
        }
        // One reads for all who missed about the same.
        let _one = entry.filling.lock().await;
        if let Some(listens) = self.listen_from(entry, session, known) {
            return listens;
        }
        self.fill(entry, known, head).await
            && self.listen_from(entry, session, known).unwrap_or(false)
    }

    /// Listens from `known` on, if all since then is kept, which is not known to be so for none. `false` when it is too
    /// much for what may wait.
    fn listen_from(&self, entry: &Cell, session: &Arc<Session>, known: Rev) -> Option<bool> {
        let mut channel = entry.channel();
        let bytes = channel.kept_since(known)?;
        if session.outbox.bytes() + bytes > self.replay_bytes {
            return Some(false);
        }
        Some(channel.listen(session, known, None) == Start::Whole)
    }

    /// Reads what happened after `known` into what is kept: from the bus's window, or from the log.
    async fn fill(&self, entry: &Cell, known: Rev, head: &ConversationHead) -> bool {
        let window = self.bus.recent(head.conversation_id, known).await;
        if let Some(through) = window.last().map(|last| last.rev)
            && entry.channel().keep_from(known, window, through)
        {
            metrics::counter!("backscroll_realtime_fills_total", "from" => "window").increment(1);
            return true;
        }
        metrics::counter!("backscroll_realtime_fills_total", "from" => "log").increment(1);
        match self
            .read_after(head.conversation_id, known, Seq(u64::MAX))
            .await
        {
            Ok(Log::Changes {
                changes, through, ..
            }) => entry.channel().keep_from(known, changes, through),
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "what a client missed cannot be read");
                false
            }
        }
    }

    /// Opens the user's own topic for `session`, which knows their list up to `known`. Tells what it missed, and gives up to
    /// where it is told then; none when that is not known, or too much was missed.
    pub(crate) async fn follow_list(
        &self,
        session: &Arc<Session>,
        known: Option<Rev>,
    ) -> Option<Rev> {
        let user = &session.user;
        let entry = self.entry(Topic::User(user.clone())).await;
        let asked = tokio::time::timeout(ASK_TIMEOUT, self.list_revs.ask(user.clone())).await;
        let Some(rev) = asked.ok().flatten() else {
            // The audit finds out where it stands, and says then that it has to be loaded.
            entry.channel().listen(session, Rev(0), None);
            return None;
        };
        let begun = {
            let mut channel = entry.channel();
            if channel.rev().is_none() && !channel.is_empty() {
                // Others listen since it could not be asked: what they missed is not known.
                let told = Arc::new(ClientEvent::resync(Vec::new(), true));
                channel.skip_to(rev, Seq(0), &told)
            } else {
                channel.begin(rev, Seq(0), 0)
            }
        };
        self.follow_up(&entry, begun);
        let after = known.unwrap_or(rev);
        if after <= rev {
            if entry.channel().listen(session, after, None) == Start::Whole {
                return Some(after);
            }
            if let Some(through) = self.tell_list(&entry, session, after).await {
                return Some(through);
            }
        }
        let mut channel = entry.channel();
        let now = channel.rev().unwrap_or(rev);
        channel.listen(session, now, None);
        None
    }

    /// Tells `session` what is not kept of its list, and what comes then. None when that is too much.
    async fn tell_list(&self, entry: &Cell, session: &Arc<Session>, after: Rev) -> Option<Rev> {
        let limit = u32::try_from(REPLAY_MAX).unwrap_or(u32::MAX);
        let read = self.list_changes(&session.user, after, limit).await;
        let entries = match read {
            Ok(entries) if entries.len() < REPLAY_MAX => entries,
            Ok(_) => return None,
            Err(error) => {
                tracing::warn!(%error, "what a client missed of its list cannot be read");
                return None;
            }
        };
        let through = entries.last().map_or(after, |(rev, _)| *rev);
        let mut channel = entry.channel();
        channel.kept_since(through)?;
        for (rev, changed) in &entries {
            let push = entry_push(*rev, changed);
            if let Some(event) = ClientEvent::of(&entry.topic, &push) {
                session.outbox.put_event(&Arc::new(event));
            }
        }
        (channel.listen(session, through, None) == Start::Whole).then_some(after)
    }

    /// As [`Store::list_changes`], not too many at once.
    async fn list_changes(
        &self,
        user: &UserId,
        after: Rev,
        limit: u32,
    ) -> Result<Vec<(Rev, ListEntry)>> {
        let _slot = self.reads.acquire().await;
        let deadline = Instant::now() + PATIENCE;
        self.store.list_changes(user, after, limit, deadline).await
    }

    /// `session` watches `user`.
    pub(crate) async fn watch(&self, session: &Arc<Session>, user: UserId) {
        let entry = self.entry(Topic::Presence(user)).await;
        entry.channel().listen(session, Rev(0), None);
    }

    /// Tells those here who watch `user` that they are gone, unless they were told so.
    pub(crate) fn take_offline(&self, user: &UserId, push: &Push) {
        let Some(entry) = self.find(&Topic::Presence(user.clone())) else {
            return;
        };
        let told = entry
            .channel()
            .last_state()
            .map(|state| serde_json::from_str::<Presence>(state.get()));
        if !matches!(told, Some(Ok(told)) if told.status == Status::Offline) {
            self.tell_presence(user, &entry, push);
        }
    }

    /// Somebody who begins to watch was told this of a user: what differs from it is told.
    pub(crate) fn note_presence(&self, presence: &Presence) {
        if let Some(entry) = self.find(&Topic::Presence(presence.user_id.clone())) {
            entry.channel().note_state(Arc::new(RawJson::of(presence)));
        }
    }

    /// The users whom somebody here watches.
    pub(crate) fn watched(&self) -> Vec<UserId> {
        let mut users = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            users.extend(part.keys().filter_map(|topic| match topic {
                Topic::Presence(user) => Some(user.clone()),
                _ => None,
            }));
        }
        users
    }

    /// Whether a conversation is open here and small enough to tell who types and who comes and goes.
    pub(crate) fn is_small(&self, id: ConversationId) -> bool {
        let entry = self.find(&Topic::Conversation(id));
        entry.is_some_and(|entry| entry.channel().is_small())
    }

    /// From now on `session`, which has opened a conversation, is told which of its members come and go. Gives them.
    pub(crate) async fn show_members(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
    ) -> Result<Arc<[UserId]>> {
        let entry = self.find(&Topic::Conversation(id));
        let entry = entry.ok_or(Error::NotMember)?;
        entry.channel().show_members_to(session);
        let known = entry.channel().roster();
        match known {
            Some(roster) => Ok(roster),
            None => {
                let _one = entry.filling.lock().await;
                let known = entry.channel().roster();
                match known {
                    Some(roster) => Ok(roster), // somebody else has read it
                    None => self.read_roster(&entry, id, &session.user).await,
                }
            }
        }
    }

    /// Reads who the members are, as `user` sees it, and listens to their presence.
    async fn read_roster(
        &self,
        entry: &Cell,
        id: ConversationId,
        user: &UserId,
    ) -> Result<Arc<[UserId]>> {
        let caller = Caller::new(user.clone(), PATIENCE);
        let most = u32::try_from(SMALL_MEMBERS_MAX).unwrap_or(u32::MAX);
        let read = {
            let _slot = self.reads.acquire().await;
            self.store.members(&caller, id, None, most).await?
        };
        if read.next_cursor.is_some() {
            entry.channel().outgrow();
            return Ok(Arc::default());
        }
        let members = read.members.into_iter().map(|member| member.user_id);
        let roster: Arc<[UserId]> = members.collect();
        // Noted before their presence is listened to: what is seen in a conversation without them is swept.
        entry.channel().set_roster(Some(Arc::clone(&roster)));
        let seeing = roster.iter().map(|member| async move {
            let entry = self.entry(Topic::Presence(member.clone())).await;
            entry.channel().see_in(id);
        });
        futures_util::future::join_all(seeing).await;
        Ok(roster)
    }

    /// The members have changed: who they are is read again where somebody is told which of them come and go.
    fn members_changed(&self, entry: &Cell) {
        let Topic::Conversation(id) = entry.topic else {
            return;
        };
        let onlooker = {
            let mut channel = entry.channel();
            let onlooker = channel.onlooker().filter(|_| channel.is_small());
            let onlooker = onlooker.map(|session| session.user.clone());
            if onlooker.is_none() {
                channel.set_roster(None);
            }
            onlooker
        };
        let (Some(user), Some(hub)) = (onlooker, self.this.upgrade()) else {
            return;
        };
        let entry = Arc::clone(entry);
        self.tasks.spawn(async move {
            let _one = entry.filling.lock().await;
            if let Err(error) = hub.read_roster(&entry, id, &user).await {
                tracing::debug!(%error, "the members of a conversation are not known");
            }
        });
    }

    /// Tells that `user` came or went to those who watch them, and in the open conversations in which they are seen.
    fn tell_presence(&self, user: &UserId, entry: &Cell, push: &Push) {
        let (event, seen_in) = {
            let mut channel = entry.channel();
            let Some(event) = channel.tell_presence(push) else {
                return;
            };
            (event, channel.seen_in().to_vec())
        };
        let mut told = HashSet::new();
        for id in seen_in {
            if let Some(conversation) = self.find(&Topic::Conversation(id)) {
                let channel = conversation.channel();
                if channel.knows(user) {
                    channel.tell_member(user, &event, &mut told);
                }
            }
        }
    }

    /// Forgets conversations that are no longer open, or whose members a user no longer is.
    fn sweep_seen(&self, user: &UserId, entry: &Cell) {
        let seen_in = entry.channel().seen_in().to_vec();
        for id in seen_in {
            let conversation = self.find(&Topic::Conversation(id));
            if !conversation.is_some_and(|open| open.channel().knows(user)) {
                entry.channel().unsee_in(id);
            }
        }
    }

    /// `session` no longer listens to `topic`.
    pub(crate) fn leave(&self, session: &Arc<Session>, topic: &Topic) {
        if let Some(entry) = self.find(topic) {
            entry.channel().unlisten(session);
        }
    }

    /// Takes pushes from the bus, one after the other.
    async fn work(self: Arc<Self>, mut pushes: mpsc::Receiver<(Topic, Push)>) {
        let lag = metrics::histogram!("backscroll_realtime_push_lag_seconds");
        let mut batch = Vec::new();
        loop {
            let taken = tokio::select! {
                taken = pushes.recv_many(&mut batch, 64) => taken,
                () = self.closing.cancelled() => return,
            };
            if taken == 0 {
                return;
            }
            for (topic, push) in batch.drain(..) {
                let Some(entry) = self.find(&topic) else {
                    continue;
                };
                let (at, kind) = (push.at, push.kind);
                let (todo, listeners) = if let Topic::Presence(user) = &topic {
                    self.tell_presence(user, &entry, &push);
                    (Todo::default(), 0)
                } else {
                    let mut channel = entry.channel();
                    (channel.take(push), channel.listeners().len())
                };
                let late = backscroll_shard::model::Timestamp::now().0 - at.0;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                lag.record(late.max(0) as f64 / 1e3);
                self.follow_up(&entry, todo);
                if kind == PushKind::ConversationChanged {
                    self.members_changed(&entry);
                }
                if listeners > CROWD {
                    tokio::task::yield_now().await; // they are to be written to before they are told more
                }
            }
        }
    }

    fn follow_up(&self, entry: &Cell, todo: Todo) {
        let Some(hub) = self.this.upgrade() else {
            return;
        };
        if todo.recheck && !std::mem::replace(&mut entry.channel().rechecking, true) {
            let (hub, entry) = (Arc::clone(&hub), Arc::clone(entry));
            self.tasks
                .spawn(async move { hub.recheck_soon(&entry).await });
        }
        if todo.heal && !std::mem::replace(&mut entry.channel().healing, true) {
            let entry = Arc::clone(entry);
            self.tasks.spawn(async move {
                tokio::time::sleep(LATE).await;
                hub.heal(&entry).await;
            });
        }
    }

    /// Reads what is missing until nothing is, once for all who listen.
    async fn heal(&self, entry: &Cell) {
        while !self.closing.is_cancelled() {
            let told = entry.channel().rev();
            let outcome = match &entry.topic {
                Topic::Conversation(id) => self.heal_conversation(entry, *id).await,
                Topic::User(user) => self.heal_list(entry, user).await,
                Topic::Presence(_) => Ok(Todo::default()),
            };
            let todo = match outcome {
                Ok(todo) => todo,
                Err(error) => {
                    tracing::debug!(topic = %entry.topic, %error, "lost pushes cannot be read yet");
                    if entry.channel().is_empty() {
                        break;
                    }
                    tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.5..1.5))).await;
                    continue;
                }
            };
            if todo.recheck {
                self.recheck(entry).await;
            }
            let mut channel = entry.channel();
            if channel.rev() == told {
                channel.forget_held(); // of no log: reading it again would bring nothing either
            }
            // What came early meanwhile did not ask for another read.
            if channel.rev() == told || !todo.heal && !channel.holds() {
                channel.healing = false;
                return;
            }
        }
        entry.channel().healing = false;
    }

    async fn heal_conversation(&self, entry: &Cell, id: ConversationId) -> Result<Todo> {
        let (Some(rev), head) = ({
            let channel = entry.channel();
            (channel.rev(), channel.head())
        }) else {
            return Ok(Todo::default());
        };
        metrics::counter!("backscroll_realtime_heals_total", "topic" => "conversation")
            .increment(1);
        match self.read_after(id, rev, head).await {
            Ok(Log::Nothing) => Ok(Todo::default()),
            Ok(Log::Changes {
                changes,
                through,
                head,
                complete,
                members,
            }) => {
                let mut todo = entry.channel().healed(changes, through, head);
                todo.recheck |= members;
                todo.heal |= !complete;
                Ok(todo)
            }
            Ok(Log::TooMuch(head)) => {
                let told = Arc::new(ClientEvent::resync(vec![head], false));
                let mut todo = entry.channel().skip_to(head.rev, head.head_seq, &told);
                todo.recheck = true;
                Ok(todo)
            }
            Err(Error::NotMember) => {
                let listeners: Vec<_> = entry.channel().listeners().cloned().collect();
                for session in listeners {
                    self.expel(&session, id);
                }
                Ok(Todo::default())
            }
            Err(error) => Err(error),
        }
    }

    async fn heal_list(&self, entry: &Cell, user: &UserId) -> Result<Todo> {
        let Some(rev) = entry.channel().rev() else {
            return Ok(Todo::default());
        };
        metrics::counter!("backscroll_realtime_heals_total", "topic" => "list").increment(1);
        let limit = u32::try_from(REPLAY_MAX).unwrap_or(u32::MAX);
        let entries = self.list_changes(user, rev, limit).await?;
        let Some(through) = entries.last().map(|(rev, _)| *rev) else {
            return Ok(Todo::default());
        };
        let changes: Vec<Push> = entries
            .iter()
            .map(|(rev, entry)| entry_push(*rev, entry))
            .collect();
        let mut todo = entry.channel().healed(changes, through, Seq(0));
        todo.heal |= entries.len() >= REPLAY_MAX;
        Ok(todo)
    }

    /// What happened in a conversation after `rev`; messages after `head` are new to who listens.
    async fn read_after(&self, id: ConversationId, rev: Rev, head: Seq) -> Result<Log> {
        let _slot = self.reads.acquire().await;
        let delta = self
            .store
            .changes(id, rev, Instant::now() + PATIENCE)
            .await?;
        Ok(match delta {
            Delta::None => Log::Nothing,
            Delta::Resync(head) => Log::TooMuch(head),
            Delta::Changes { changes, complete } => {
                let ConversationChanges {
                    messages,
                    members,
                    rev,
                    ..
                } = changes;
                let newest = messages.iter().map(|message| message.seq).max();
                Log::Changes {
                    changes: messages
                        .iter()
                        .map(|message| change(message, head))
                        .collect(),
                    through: rev,
                    head: newest.unwrap_or_default(),
                    complete,
                    members: !members.is_empty(),
                }
            }
        })
    }

    /// Expels those who are no longer members; in a large conversation whose members come and go, not each time anew.
    async fn recheck_soon(&self, entry: &Cell) {
        let listeners = entry.channel().listeners().len();
        if listeners > RECHECKED_AT_ONCE {
            tokio::time::sleep(RETRY).await;
        }
        // What changes from now on is looked at again.
        entry.channel().rechecking = false;
        self.recheck(entry).await;
    }

    /// Expels those who are no longer members.
    async fn recheck(&self, entry: &Cell) {
        let Topic::Conversation(id) = entry.topic else {
            return;
        };
        self.members_changed(entry);
        let mut unknown: Vec<Arc<Session>> = entry.channel().listeners().cloned().collect();
        while !unknown.is_empty() && !self.closing.is_cancelled() {
            let mut again = Vec::new();
            for sessions in unknown.chunks(RECHECKED_AT_ONCE) {
                let asked = sessions.iter().map(|session| self.standing(id, session));
                let standings = futures_util::future::join_all(asked).await;
                for (session, standing) in sessions.iter().zip(standings) {
                    match standing {
                        Ok(_) => {}
                        Err(Error::NotMember) => self.expel(session, id),
                        Err(_) => again.push(Arc::clone(session)),
                    }
                }
            }
            again.retain(|session| session.has_joined(id));
            if !again.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
            unknown = again;
        }
    }

    /// Ends an open conversation of one who is no longer a member.
    fn expel(&self, session: &Arc<Session>, id: ConversationId) {
        self.leave(session, &Topic::Conversation(id));
        session.expel(id);
    }

    /// Compares what was told with the logs, again and again, and sweeps topics that nobody has listened to for a while.
    async fn audit(self: Arc<Self>, interval: Duration) {
        loop {
            let wait = if self.is_in_doubt() {
                AUDIT_IN_DOUBT.min(interval)
            } else {
                interval
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = async {
                    self.in_doubt.notified().await;
                    tokio::time::sleep(RETRY).await; // not one audit after the other
                } => {}
                () = self.closing.cancelled() => return,
            }
            let topics = self.sweep();
            for topics in topics.chunks(AUDIT_BATCH) {
                self.compare(topics).await;
            }
        }
    }

    /// Forgets topics without listeners, and gives the others.
    fn sweep(&self) -> Vec<Cell> {
        let mut all = Vec::new();
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(|topic, entry| {
                // Whoever has it in hand may be about to listen; whoever holds its lock uses it.
                if Arc::strong_count(entry) > 1 {
                    return true;
                }
                let Ok(mut channel) = entry.channel.try_lock() else {
                    return true;
                };
                channel.forget_old(LINGER);
                let linger = match topic {
                    Topic::Presence(_) => Duration::ZERO,
                    _ => LINGER,
                };
                let idle = channel.idle_since.map(|since| since.elapsed());
                let over = channel.is_empty() && idle.is_some_and(|idle| idle >= linger);
                if over {
                    self.bus.unsubscribe(topic);
                }
                !over
            });
            all.extend(part.values().cloned());
        }
        for entry in &all {
            if let Topic::Presence(user) = &entry.topic {
                self.sweep_seen(user, entry);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::gauge!("backscroll_realtime_topics").set(all.len() as f64);
        all
    }

    /// Heals topics whose log is ahead of what was told, and still is a moment later.
    async fn compare(&self, entries: &[Cell]) {
        let deadline = Instant::now() + PATIENCE;
        let mut conversations = Vec::new();
        let mut users = Vec::new();
        for entry in entries {
            match &entry.topic {
                Topic::Conversation(id) => conversations.push(*id),
                Topic::User(user) => users.push(user.clone()),
                Topic::Presence(_) => {}
            }
        }
        // What was told before the logs are asked is in them, unless they were set back.
        let told: Vec<Option<Rev>> = entries.iter().map(|entry| entry.channel().rev()).collect();
        let heads = self.store.heads(&conversations, deadline).await;
        let revs = self.store.list_revs(&users, deadline).await;
        let log = |entry: &Cell| match &entry.topic {
            Topic::Conversation(id) => heads.get(id).map(|head| head.map(|head| head.rev)),
            Topic::User(user) => revs.get(user).map(|rev| Some(*rev)),
            Topic::Presence(_) => None,
        };
        let mut suspects = Vec::new();
        for (entry, told) in entries.iter().zip(told) {
            match log(entry) {
                None => {}
                Some(None) => suspects.push(entry),
                Some(Some(log)) if told.is_some_and(|told| told > log) => self.set_back(entry, log),
                Some(Some(log)) if told.is_none_or(|told| told < log) => suspects.push(entry),
                Some(Some(_)) => {}
            }
        }
        if suspects.is_empty() {
            return;
        }
        tokio::time::sleep(LATE * 2).await;
        for entry in suspects {
            let told = entry.channel().rev();
            let todo = match (log(entry).flatten(), told) {
                (Some(log), Some(told)) if told >= log => continue,
                (Some(log), None) if !entry.channel().is_empty() => {
                    // Its log could not be asked when it began: what was missed since is not known.
                    self.set_back(entry, log);
                    continue;
                }
                (_, None) => continue, // somebody is about to begin
                _ => Todo {
                    heal: true,
                    recheck: false,
                },
            };
            metrics::counter!("backscroll_realtime_gaps_total").increment(1);
            self.follow_up(entry, todo);
        }
    }

    /// What was told is not known, or not the log's any more, as after a failover that lost something: it has to be loaded.
    fn set_back(&self, entry: &Cell, log: Rev) {
        if matches!(entry.topic, Topic::User(_)) {
            let told = Arc::new(ClientEvent::resync(Vec::new(), true));
            let todo = entry.channel().skip_to(log, Seq(0), &told);
            self.follow_up(entry, todo);
        } else {
            let todo = Todo {
                heal: true,
                recheck: true,
            };
            self.follow_up(entry, todo);
        }
    }

    /// Publishes that the user of `session` types in a conversation, or no longer does.
    pub(crate) fn publish_typing(
        &self,
        session: &Session,
        conversation_id: ConversationId,
        is_typing: bool,
    ) {
        let data = UserTyping {
            conversation_id,
            user_id: &session.user,
            is_typing,
        };
        let push = Push::state(PushKind::UserTyping, session.user.clone(), &data);
        self.bus
            .publish(&Topic::Conversation(conversation_id), &push);
    }

    /// The log.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The bus.
    pub(crate) fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }
}

/// What a log says.
enum Log {
    Nothing,
    Changes {
        changes: Vec<Push>,
        through: Rev,
        head: Seq,
        complete: bool,
        members: bool,
    },
    TooMuch(ConversationHead),
}

fn change(message: &Message, head: Seq) -> Push {
    let kind = if message.deleted_at.is_some() {
        PushKind::MessageDeleted
    } else if message.seq > head || head == Seq(u64::MAX) && is_untouched(message) {
        PushKind::NewMessage
    } else {
        PushKind::MessageUpdated
    };
    message_push(kind, message)
}

/// Whether a message is as it was sent.
fn is_untouched(message: &Message) -> bool {
    message.edited_at.is_none() && message.reactions.get() == "{}"
}

impl Receiver for Hub {
    fn listens(&self, topic: &Topic) -> bool {
        self.part(topic).contains_key(topic)
    }

    fn received(&self, topic: Topic, push: Push) {
        if !self.listens(&topic) {
            return;
        }
        let worker = self.position(&topic) / PARTS % WORKERS;
        if self.workers[worker].try_send((topic, push)).is_err() {
            metrics::counter!("backscroll_realtime_dropped_total").increment(1);
            self.in_doubt.notify_one();
        }
    }

    fn interrupted(&self) {
        self.in_doubt.notify_one();
    }
}
