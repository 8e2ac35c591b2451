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

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId};
use backscroll_shard::model::{ConversationChanges, ConversationHead, Message};
use backscroll_shard::store::{Standing, Store};
use backscroll_shard::sync::Delta;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::Batcher;
use crate::bus::{Bus, Receiver};
use crate::channel::{Channel, Start, Todo};
use crate::outbox::Event;
use crate::protocol::{self, InConversation, Resync};
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
/// How long to wait before a read that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Beyond so many listeners, changes of members are gathered for a moment.
const RECHECKED_AT_ONCE: usize = 100;
/// How often the logs are compared while the bus may be dead.
const AUDIT_IN_DOUBT: Duration = Duration::from_secs(2);
/// From when on a silent bus may be dead.
const SILENCE: Duration = Duration::from_secs(6);
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
    tasks: TaskTracker,
    closing: CancellationToken,
    this: Weak<Self>,
}

impl Hub {
    /// Starts a node's hub on `bus`.
    #[must_use]
    pub fn start(store: Arc<Store>, bus: Arc<dyn Bus>, settings: &RealtimeSettings) -> Arc<Self> {
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
            bus: Arc::clone(&bus),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            workers,
            standings,
            list_revs,
            in_doubt: Notify::new(),
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
            let entry = Arc::clone(entry);
            // Whoever comes now keeps it from being swept until they listen.
            let mut channel = entry.channel();
            channel.idle_since = channel.idle_since.map(|_| Instant::now());
            drop(channel);
            entry
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
        self.bus.silence().is_some_and(|silence| silence > SILENCE)
    }

    /// Opens a conversation for `session`, which knows it up to `known`; without that, from where it stands now.
    ///
    /// # Errors
    /// [`Error::NotMember`]; [`Error::DeadlineExceeded`] when the log cannot be asked just now.
    pub(crate) async fn join(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
        known: Option<Rev>,
        room: usize,
    ) -> Result<Joined> {
        let entry = self.entry(Topic::Conversation(id)).await;
        let asked = self.standings.ask((id, session.user.clone())).await;
        let standing = asked
            .ok_or(Error::DeadlineExceeded)?
            .ok_or(Error::NotMember)?;
        let head = standing.head;
        let begun = entry
            .channel()
            .begin(head.rev, head.head_seq, standing.member_count);
        self.follow_up(&entry, begun);
        let known = known.unwrap_or(head.rev);
        let joined = if known > head.rev {
            Joined::Refused(head) // of a log that was set back, or never was
        } else if self.catch_up(&entry, session, known, &head, room).await {
            return self.confirm(session, id, Joined::Whole(head));
        } else {
            Joined::Refused(head)
        };
        // From where it stands; what came since is kept, or it stands there anew.
        let mut after = head.rev;
        loop {
            let (start, todo) = entry.channel().listen(session, after);
            self.follow_up(&entry, todo);
            if start == Start::Whole {
                break;
            }
            after = entry.channel().rev().unwrap_or(after);
        }
        self.confirm(session, id, joined)
    }

    /// A session that ended meanwhile listens to nothing.
    fn confirm(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
        joined: Joined,
    ) -> Result<Joined> {
        if session.joined(id) {
            return Ok(joined);
        }
        self.leave(session, &Topic::Conversation(id));
        Err(Error::Closing)
    }

    /// Tells `session` what it missed since `known`, and everything from then on. `false` when that is too much: nothing was
    /// done.
    async fn catch_up(
        &self,
        entry: &Cell,
        session: &Arc<Session>,
        known: Rev,
        head: &ConversationHead,
        room: usize,
    ) -> bool {
        if head.rev.0 - known.0 > room as u64 {
            return false;
        }
        if self.listen_from(entry, session, known, head) {
            return true;
        }
        // One reads for all who missed about the same.
        let _one = entry.filling.lock().await;
        if self.listen_from(entry, session, known, head) {
            return true;
        }
        self.fill(entry, known, head).await && self.listen_from(entry, session, known, head)
    }

    /// Listens from `known` on, if all from there up to `head` is kept.
    fn listen_from(
        &self,
        entry: &Cell,
        session: &Arc<Session>,
        known: Rev,
        head: &ConversationHead,
    ) -> bool {
        let mut channel = entry.channel();
        // What the node was not told yet comes, or is healed, and goes to who listens then.
        if channel.kept_since(known.min(head.rev)).is_none() {
            return false;
        }
        let (start, todo) = channel.listen(session, known);
        drop(channel);
        self.follow_up(entry, todo);
        start == Start::Whole
    }

    /// Reads what happened after `known` into what is kept: from the bus's window, or from the log.
    async fn fill(&self, entry: &Cell, known: Rev, head: &ConversationHead) -> bool {
        let window = self.bus.recent(head.conversation_id, known).await;
        let kept_after = |entry: &Cell| entry.channel().kept_after();
        let reaches = window
            .last()
            .is_some_and(|last| last.rev >= kept_after(entry));
        metrics::counter!("backscroll_realtime_fills_total", "from" => if reaches { "window" } else { "log" })
            .increment(1);
        let changes = if reaches {
            window
        } else {
            match self.read(head.conversation_id, known).await {
                Ok(Log::Changes {
                    changes, through, ..
                }) if through >= kept_after(entry) => changes,
                Ok(_) => return false,
                Err(error) => {
                    tracing::warn!(%error, "what a client missed cannot be read");
                    return false;
                }
            }
        };
        entry.channel().keep_from(known, changes);
        true
    }

    /// Opens the user's own topic for `session`, which knows their list up to `known`. Tells what it missed, and gives where
    /// the list stands; none when that cannot be asked. `false` when too much is missing.
    pub(crate) async fn follow_list(
        &self,
        session: &Arc<Session>,
        known: Option<Rev>,
    ) -> (Option<Rev>, bool) {
        let user = &session.user;
        let entry = self.entry(Topic::User(user.clone())).await;
        let Some(rev) = self.list_revs.ask(user.clone()).await else {
            entry.channel().listen(session, known.unwrap_or_default());
            return (None, known.is_none());
        };
        let begun = entry.channel().begin(rev, Seq(0), 0);
        self.follow_up(&entry, begun);
        let after = known.unwrap_or(rev);
        let whole = after <= rev && {
            let kept = entry.channel().kept_since(after).is_some();
            kept || self.fill_list(&entry, user, after, rev).await
        };
        let after = if whole { after } else { rev };
        let mut listening = entry.channel();
        if listening.listen(session, after).0 == Start::NotKept {
            let now = listening.rev().unwrap_or(rev);
            listening.listen(session, now);
        }
        (Some(rev), whole)
    }

    async fn fill_list(&self, entry: &Cell, user: &UserId, after: Rev, rev: Rev) -> bool {
        let limit = u32::try_from(REPLAY_MAX).unwrap_or(u32::MAX);
        let deadline = Instant::now() + PATIENCE;
        match self.store.list_changes(user, after, limit, deadline).await {
            Ok(entries) if entries.last().is_some_and(|(last, _)| *last >= rev) => {
                let changes = entries.iter().map(|(rev, entry)| entry_push(*rev, entry));
                entry.channel().keep_from(after, changes.collect());
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "what a client missed of its list cannot be read");
                false
            }
        }
    }

    /// `session` watches `user`.
    pub(crate) async fn watch(&self, session: &Arc<Session>, user: UserId) {
        let entry = self.entry(Topic::Presence(user)).await;
        entry.channel().listen(session, Rev(0));
    }

    /// Tells those here who watch `user`, when it differs from what they were told.
    pub(crate) fn take_presence(&self, user: &UserId, push: Push) {
        if let Some(entry) = self.find(&Topic::Presence(user.clone())) {
            entry.channel().take(push);
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

    /// How many members a conversation that is open here has, about; none when it is not.
    pub(crate) fn members(&self, id: ConversationId) -> Option<u64> {
        let entry = self.find(&Topic::Conversation(id))?;
        let members = entry.channel().members();
        Some(members)
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
                let at = push.at;
                let todo = entry.channel().take(push);
                let late = backscroll_shard::model::Timestamp::now().0 - at.0;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                lag.record(late.max(0) as f64 / 1e3);
                self.follow_up(&entry, todo);
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
            let outcome = match &entry.topic {
                Topic::Conversation(id) => self.heal_conversation(entry, *id).await,
                Topic::User(user) => self.heal_list(entry, user).await,
                Topic::Presence(_) => Ok(Todo::default()),
            };
            let todo = match outcome {
                Ok(todo) => todo,
                Err(error) => {
                    tracing::warn!(topic = %entry.topic, %error, "lost pushes cannot be read yet");
                    if entry.channel().is_empty() {
                        break;
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            if todo.recheck {
                self.recheck(entry).await;
            }
            if !todo.heal {
                break;
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
                let told = Arc::new(resync(vec![head], false));
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
        let deadline = Instant::now() + PATIENCE;
        let entries = self.store.list_changes(user, rev, limit, deadline).await?;
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

    async fn read(&self, id: ConversationId, rev: Rev) -> Result<Log> {
        self.read_after(id, rev, Seq(u64::MAX)).await
    }

    /// What happened in a conversation after `rev`; messages after `head` are new to who listens.
    async fn read_after(&self, id: ConversationId, rev: Rev, head: Seq) -> Result<Log> {
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
        let listeners = entry.channel().listeners().count();
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
        let listeners: Vec<Arc<Session>> = entry.channel().listeners().cloned().collect();
        let asked = listeners
            .iter()
            .map(|session| self.standings.ask((id, session.user.clone())));
        let standings = futures_util::future::join_all(asked).await;
        for (session, standing) in listeners.iter().zip(standings) {
            // Where it cannot be asked they stay: the audit asks again.
            if let Some(None) = standing {
                self.expel(session, id);
            }
        }
    }

    /// Ends an open conversation of one who is no longer a member.
    fn expel(&self, session: &Arc<Session>, id: ConversationId) {
        self.leave(session, &Topic::Conversation(id));
        if session.left(id) {
            let data = InConversation {
                conversation_id: id,
            };
            session
                .outbox
                .event(&Arc::new(protocol::event("left_conversation", &data)));
        }
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
                () = self.in_doubt.notified() => {}
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
                let channel = entry.channel();
                let over = channel.is_empty()
                    && channel
                        .idle_since
                        .is_some_and(|since| since.elapsed() > LINGER);
                if over {
                    self.bus.unsubscribe(topic);
                }
                !over
            });
            all.extend(part.values().cloned());
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
        let heads = self.store.heads(&conversations, deadline).await;
        let revs = self.store.list_revs(&users, deadline).await;
        let logs = |entry: &Cell| match &entry.topic {
            Topic::Conversation(id) => heads.get(id).map(|head| head.map(|head| head.rev)),
            Topic::User(user) => revs.get(user).map(|rev| Some(*rev)),
            Topic::Presence(_) => None,
        };
        let behind = |entry: &&Cell| match logs(entry) {
            None => false,
            Some(None) => true,
            Some(Some(log)) => entry.channel().rev().is_none_or(|told| told < log),
        };
        let suspects: Vec<&Cell> = entries.iter().filter(behind).collect();
        if suspects.is_empty() {
            return;
        }
        tokio::time::sleep(LATE * 2).await;
        for entry in suspects.into_iter().filter(behind) {
            if let (Topic::User(_), Some(Some(log)), None) =
                (&entry.topic, logs(entry), entry.channel().rev())
            {
                // Its log could not be asked when it began: what was missed since is not known.
                let told = Arc::new(resync(Vec::new(), true));
                entry.channel().skip_to(log, Seq(0), &told);
                continue;
            }
            metrics::counter!("backscroll_realtime_gaps_total").increment(1);
            let todo = Todo {
                heal: true,
                recheck: false,
            };
            self.follow_up(entry, todo);
        }
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
    } else if message.seq > head || message.edited_at.is_none() && head == Seq(u64::MAX) {
        PushKind::NewMessage
    } else {
        PushKind::MessageUpdated
    };
    message_push(kind, message)
}

/// Says what has to be loaded.
pub(crate) fn resync(conversations: Vec<ConversationHead>, list: bool) -> Event {
    metrics::counter!("backscroll_realtime_resyncs_total").increment(1);
    protocol::event(
        "resync",
        &Resync {
            conversations,
            list,
        },
    )
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
