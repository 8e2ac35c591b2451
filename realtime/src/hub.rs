//! The topics of a node: which sessions listen to what, and the delivery of every change to them.
//!
//! [`Hub`] is the facade. Behind it stand types that each know only those before them:
//!
//! | module | type | does |
//! |---|---|---|
//! | [`feed`], `recent` | `Feed` | delivers one log's changes in order, each once |
//! | [`topic_state`], [`conversation`], [`list`] | `TopicState` | the state of each kind of topic; that of presence is in [`presence`](crate::presence) |
//! | [`topics`] | `Topics` | the registry: find, subscribe, sweep |
//! | [`log_reader`], `batch` | `LogReader` | bounded and batched reads of the logs |
//! | [`presence::fan_out`](crate::presence::fan_out) | `PresenceFanOut` | delivers presence |
//! | [`healing`] | `Healer` | reads lost changes, checks memberships |
//! | [`audit`] | `Auditor` | finds feeds that are behind their logs |
//! | [`joining`] | `Joiner` | lets sessions listen, with what they missed |
//!
//! Pushes go through a few workers, chosen by topic: the pushes of one topic stay in order, and publishing never waits. The
//! log is read in three cases only: a rev is missing; the audit finds a feed behind its log; a session resumes that missed
//! more than the recent changes. So every session ends with the log, whatever the bus loses (INV-PUSH).
//!
//! A session listens to a conversation only while its user is a member: that is asked when it joins, and again whenever the
//! members may have changed (INV-MEMBER). The workers' queues are bounded; a push without room is dropped, counted, and found
//! by the audit (INV-BOUND). A crash leaves nothing behind.

pub(crate) mod audit;
mod batch;
pub(crate) mod conversation;
pub(crate) mod feed;
pub(crate) mod healing;
pub(crate) mod joining;
pub(crate) mod list;
pub(crate) mod log_reader;
mod recent;
pub(crate) mod topic_state;
pub(crate) mod topics;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use backscroll_shard::error::Result;
use backscroll_shard::ids::{ConversationId, Rev};
use backscroll_shard::model::Timestamp;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::{Kept, TaskGroup};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::audit::Auditor;
use self::healing::{Healer, LogTopic};
use self::joining::{Joined, Joiner};
use self::log_reader::{LogReader, ReplayBudget};
use self::topics::Topics;
use crate::bus::{Bus, Receiver};
use crate::metrics;
use crate::presence::fan_out::PresenceFanOut;
use crate::protocol::UserTyping;
use crate::push::{Push, PushKind, Topic};
use crate::session::Session;
use crate::settings::RealtimeSettings;

/// How many workers deliver pushes.
const WORKERS: usize = 4;
/// Most pushes that wait for one worker.
const QUEUE: usize = 16_384;
/// Most pushes that a worker takes at once.
const TAKEN_AT_ONCE: usize = 64;
/// After a push to more sessions than this, a worker yields, so that their tasks can write before the next push.
const CROWD: usize = 1000;
/// Most tasks that read what topics lack: a topic has few at a time.
const FOLLOW_UPS: usize = 1 << 20;
/// How long closing waits for the tasks.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The topics of a node.
pub struct Hub {
    topics: Arc<Topics>,
    presence: Arc<PresenceFanOut>,
    healer: Arc<Healer>,
    auditor: Arc<Auditor>,
    joiner: Joiner,
    bus: Arc<dyn Bus>,
    hasher: RandomState,
    workers: Vec<mpsc::Sender<(Topic, Push)>>,
    tasks: TaskGroup,
    closing: CancellationToken,
}

impl Hub {
    /// Starts a node's hub on `bus`.
    #[must_use]
    pub fn start(store: Arc<Store>, bus: &Arc<dyn Bus>, settings: &RealtimeSettings) -> Arc<Self> {
        let (tasks, closing) = (store.supervisor().group(), CancellationToken::new());
        let follow_ups = tasks.one_shots("hub-follow-up", FOLLOW_UPS);
        let topics = Arc::new(Topics::new(bus, &follow_ups));
        let log = Arc::new(LogReader::start(store, &tasks, &closing));
        let presence = Arc::new(PresenceFanOut::new(
            Arc::clone(&topics),
            Arc::clone(&log),
            &follow_ups,
        ));
        let healer = Arc::new(Healer::new(
            Arc::clone(&topics),
            Arc::clone(&log),
            Arc::clone(&presence),
            &follow_ups,
            &closing,
        ));
        let auditor = Arc::new(Auditor::new(
            Arc::clone(&topics),
            Arc::clone(&log),
            Arc::clone(&presence),
            Arc::clone(&healer),
            Arc::clone(bus),
        ));
        let joiner = Joiner::new(
            Arc::clone(&topics),
            log,
            Arc::clone(&healer),
            Arc::clone(bus),
            settings.queue_bytes / 2,
        );
        let (workers, queues): (Vec<_>, Vec<_>) =
            (0..WORKERS).map(|_| mpsc::channel(QUEUE)).unzip();
        let hub = Arc::new(Self {
            topics,
            presence,
            healer,
            auditor,
            joiner,
            bus: Arc::clone(bus),
            hasher: RandomState::new(),
            workers,
            tasks,
            closing,
        });
        hub.supervise(queues, settings.audit_interval.0);
        let receiver: Weak<dyn Receiver> = Arc::downgrade(&hub) as Weak<dyn Receiver>;
        bus.attach(receiver);
        hub
    }

    fn supervise(self: &Arc<Self>, queues: Vec<mpsc::Receiver<(Topic, Push)>>, audit: Duration) {
        for (worker, pushes) in queues.into_iter().enumerate() {
            let (hub, pushes) = (Arc::clone(self), Kept::new(pushes));
            let name = format!("hub/{worker}");
            self.tasks.supervise(name, &self.closing, move || {
                Arc::clone(&hub).work(pushes.clone())
            });
        }
        let (auditor, stop) = (Arc::clone(&self.auditor), self.closing.clone());
        self.tasks.supervise("hub-audit", &self.closing, move || {
            Arc::clone(&auditor).run(audit, stop.clone())
        });
    }

    /// Ends the hub's tasks.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.finish(Instant::now() + CLOSE_TIMEOUT).await;
    }

    /// The delivery of presence.
    pub(crate) fn presence(&self) -> &Arc<PresenceFanOut> {
        &self.presence
    }

    /// As [`Joiner::join`], on the heap: with all that it reads the future is a large one.
    ///
    /// # Errors
    /// As [`Joiner::join`].
    pub(crate) async fn join(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
        known: Option<Rev>,
        budget: &ReplayBudget,
    ) -> Result<Joined> {
        self.joiner.join(session, id, known, budget).boxed().await
    }

    /// As [`Joiner::join_after_delivered`], on the heap.
    ///
    /// # Errors
    /// As [`Joiner::join_after_delivered`].
    pub(crate) async fn join_after_delivered(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
        budget: &ReplayBudget,
    ) -> Result<()> {
        let joining = self.joiner.join_after_delivered(session, id, budget);
        joining.boxed().await
    }

    /// As [`Joiner::follow_list`].
    pub(crate) async fn follow_list(
        &self,
        session: &Arc<Session>,
        known: Option<Rev>,
    ) -> Option<Rev> {
        self.joiner.follow_list(session, known).await
    }

    /// Ends the listening of `session` to a conversation.
    pub(crate) fn leave(&self, session: &Arc<Session>, id: ConversationId) {
        self.topics.leave(session, id);
    }

    /// Ends the listening of `session` to its user's list.
    pub(crate) fn unfollow_list(&self, session: &Arc<Session>) {
        if let Some(entry) = self.topics.lists.find(&session.user) {
            entry.lock().feed.unlisten(session);
        }
    }

    /// Whether a conversation is open here and small enough for typing and the members' presence.
    pub(crate) fn is_small(&self, id: ConversationId) -> bool {
        let entry = self.topics.conversations.find(&id);
        entry.is_some_and(|entry| entry.lock().members.is_small())
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

    /// Delivers the pushes of one worker, one after the other.
    async fn work(self: Arc<Self>, pushes: Kept<mpsc::Receiver<(Topic, Push)>>) {
        let mut pushes = pushes.hold().await;
        self.auditor.request(); // the run before this one may have lost some
        let lag = metrics::PUSH_LAG_SECONDS.series();
        let mut batch = Vec::new();
        loop {
            let taken = tokio::select! {
                taken = pushes.recv_many(&mut batch, TAKEN_AT_ONCE) => taken,
                () = self.closing.cancelled() => return,
            };
            if taken == 0 {
                return;
            }
            for (topic, push) in batch.drain(..) {
                let at = push.at;
                let Some(sessions) = self.deliver(&topic, push) else {
                    continue;
                };
                let late = Timestamp::now().0 - at.0;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                lag.record(late.max(0) as f64 / 1e3);
                if sessions > CROWD {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Delivers a push; returns to how many sessions, or none when this node no longer has the topic.
    fn deliver(&self, topic: &Topic, push: Push) -> Option<usize> {
        match topic {
            Topic::Conversation(id) => {
                let entry = self.topics.conversations.find(id)?;
                let changed = push.kind == PushKind::ConversationChanged;
                let (delivery, sessions) = {
                    let mut state = entry.lock();
                    (state.take(push), state.feed.listeners().len())
                };
                if changed {
                    self.presence.members_changed(&entry);
                }
                self.healer
                    .follow_up(LogTopic::Conversation(entry), delivery);
                Some(sessions)
            }
            Topic::User(user) => {
                let entry = self.topics.lists.find(user)?;
                let (delivery, sessions) = {
                    let mut state = entry.lock();
                    (state.feed.take(push), state.feed.listeners().len())
                };
                self.healer.follow_up(LogTopic::List(entry), delivery);
                Some(sessions)
            }
            Topic::Presence(user) => {
                self.presence.deliver(user, &push);
                Some(0)
            }
        }
    }
}

impl Receiver for Hub {
    fn listens(&self, topic: &Topic) -> bool {
        self.topics.has(topic)
    }

    fn received(&self, topic: Topic, push: Push) {
        if !self.listens(&topic) {
            return;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of the hash will do"
        )]
        let worker = self.hasher.hash_one(&topic) as usize % WORKERS;
        if self.workers[worker].try_send((topic, push)).is_err() {
            metrics::DROPPED.increment(1);
            self.auditor.request();
        }
    }

    fn interrupted(&self) {
        self.auditor.request();
    }
}
