//! Write lanes: group commit of sends and watermarks.
//!
//! A lane takes everything that queued up while its previous transaction was committing, without a timer, and runs **one**
//! transaction for all of it: fences and heads locked, heads in id order → memberships not known yet → one multi-row
//! insert → heads, with the mark for the lists and who wrote → watermarks → commit → answers, then events. A
//! conversation is always in the same lane of a process; between processes the head's row lock orders its messages
//! (INV-SEQ). An answer always means committed (INV-ACK).
//!
//! Repeated sends (INV-IDEM) are found by the unique key on the client message id of hot rows, which no job takes away
//! while the promise holds (`limits.idempotency`): the first attempt assumes there are none, and only when the key objects
//! is the batch run again with a look-up. A message that the database refuses fails
//! alone: the batch is halved until it is found. Deadlocks and lock waits are run again.
//!
//! Messages that a caller gives at once are one job, so they are never apart and keep their order, and the head is written
//! once for all of them.
//!
//! The queue is bounded in messages: beyond it a send is refused at once. A crash loses what was not committed, and nobody was told
//! otherwise. A lane that panics answers the jobs of its batch with [`Error::ShardUnavailable`], which may be tried again,
//! and begins anew: jobs that still wait in its queue are done then.

mod cache;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use cache::MembershipCache;

use crate::conversation::{self, Head};
use crate::db::{Connection, Dialect, Value, in_rows, padded, values};
use crate::error::{Error, Result, StatementFault};
use crate::ids::{ConversationId, Seq, UserId};
use crate::map::Assignment;
use crate::member::{self, Membership};
use crate::message::{self, Draft, StoredMessage, message_columns};
use crate::metrics;
use crate::model::{DeliveryStatus, Sent, Timestamp, Watermarks};
use crate::node::Shard;
use crate::relay;
use crate::seams::{CommitListener, Event};
use crate::settings::WriteSettings;
use crate::tasks::{Kept, TaskGroup};
use crate::transaction::Stage;

/// How long a batch may take, however often it is run. Callers wait by deadlines of their own.
const BATCH_DEADLINE: Duration = Duration::from_secs(30);

/// How often a lane without work looks after its connection, and how long a sign of life may take.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// How long a lane rests that could not open one.
const REOPEN_EVERY: Duration = Duration::from_millis(100);
const KEEP_PATIENCE: Duration = Duration::from_secs(1);

/// Most messages that a caller gives a lane at once.
pub const TOGETHER_MAX: usize = 16;

/// Why a repeat is refused that is none.
const OTHER_BODY: &str =
    "this client message id was used before with another body; use a new id for a new message";

/// What a lane does for one caller.
#[derive(Clone, Debug)]
pub enum Work {
    /// Append these messages of one caller, in their order and in one transaction; at most [`TOGETHER_MAX`].
    Send(Arc<[Draft]>),
    /// Move the caller's read watermark (and with it the delivered one) forward, to the head when no seq is given.
    Read(Option<Seq>),
    /// Move the caller's delivered watermark forward.
    Delivered(Option<Seq>),
}

impl Work {
    /// For how many messages it counts.
    fn weight(&self) -> usize {
        match self {
            Self::Send(drafts) => drafts.len(),
            Self::Read(_) | Self::Delivered(_) => 1,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// Each of the messages, stored now or before, or why it was not.
    Sent(Vec<Result<Sent>>),
    /// The watermarks as they are now.
    Watermarks(Watermarks),
}

/// A caller waiting in a lane.
#[derive(Debug)]
pub struct Job {
    conversation: ConversationId,
    user: UserId,
    assignment: Assignment,
    work: Work,
    deadline: Instant,
    reply: oneshot::Sender<Result<Outcome>>,
}

impl Job {
    /// What it sends.
    fn drafts(&self) -> &[Draft] {
        match &self.work {
            Work::Send(drafts) => drafts,
            Work::Read(_) | Work::Delivered(_) => &[],
        }
    }
}

/// A shard's lanes.
#[derive(Debug)]
pub struct Lanes {
    /// Dropped before the queues close, so that a lane's end is expected then.
    _stop: DropGuard,
    queues: Vec<Queue>,
    limit: usize,
}

/// What leads into a lane.
#[derive(Debug)]
struct Queue {
    jobs: mpsc::Sender<Job>,
    /// How many messages wait in it; at most [`Lanes::limit`] (INV-BOUND).
    waiting: Arc<AtomicUsize>,
    /// The lane has no connection and could not open one; it goes on trying.
    is_cut_off: Arc<AtomicBool>,
}

impl Lanes {
    /// Starts the lanes of `shard`. They end when this is dropped and their queues are empty.
    pub fn start(
        shard: &Arc<Shard>,
        settings: &WriteSettings,
        listener: &Arc<dyn CommitListener>,
        relay: &relay::Hints,
        tasks: &TaskGroup,
    ) -> Self {
        let lanes = match shard.primary().dialect() {
            Dialect::MySql => settings.lanes.max(1),
            Dialect::Sqlite => 1,
        };
        let limit = settings.queue.max(1) as usize;
        let stop = CancellationToken::new();
        let start = |number| {
            let (queue, jobs) = mpsc::channel(limit);
            let jobs = Kept::new(jobs);
            let waiting = Arc::new(AtomicUsize::new(0));
            let is_cut_off = Arc::new(AtomicBool::new(false));
            let new_lane = {
                let (shard, settings) = (shard.clone(), settings.clone());
                let (listener, relay) = (listener.clone(), relay.clone());
                let (waiting, is_cut_off) = (waiting.clone(), is_cut_off.clone());
                move || Lane {
                    shard: shard.clone(),
                    settings: settings.clone(),
                    listener: listener.clone(),
                    relay: relay.clone(),
                    waiting: waiting.clone(),
                    is_cut_off: is_cut_off.clone(),
                    connection: None,
                    memberships: MembershipCache::new(settings.member_cache as usize),
                }
            };
            let name = format!("lane/{}/{number}", shard.name());
            tasks.supervise(name, &stop, move || new_lane().run(jobs.clone()));
            Queue {
                jobs: queue,
                waiting,
                is_cut_off,
            }
        };
        Self {
            queues: (0..lanes).map(start).collect(),
            limit,
            _stop: stop.drop_guard(),
        }
    }

    /// Queues `work` and waits for its commit.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the lane's queue is full, [`Error::ShardUnavailable`] at once while the lane has no
    /// connection, [`Error::DeadlineExceeded`], or why it was not done.
    pub async fn submit(
        &self,
        assignment: &Assignment,
        (conversation, user): (ConversationId, &UserId),
        work: Work,
        deadline: Instant,
    ) -> Result<Outcome> {
        let lane = usize::try_from(low_bits(conversation) % self.queues.len() as u64).unwrap_or(0);
        let queue = &self.queues[lane];
        if queue.is_cut_off.load(Ordering::Relaxed) {
            return Err(Error::ShardUnavailable(assignment.shard.clone()));
        }
        let weight = work.weight();
        let (reply, answer) = oneshot::channel();
        let job = Job {
            conversation,
            user: user.clone(),
            assignment: assignment.clone(),
            work,
            deadline,
            reply,
        };
        let waiting = queue.waiting.fetch_add(weight, Ordering::Relaxed) + weight;
        let queued = if waiting > self.limit {
            Err(Error::Overloaded(assignment.shard.clone()))
        } else {
            queue.jobs.try_send(job).map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded(assignment.shard.clone()),
                mpsc::error::TrySendError::Closed(_) => Error::Closing,
            })
        };
        if queued.is_err() {
            queue.waiting.fetch_sub(weight, Ordering::Relaxed);
        }
        queued?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            // The lane drops jobs whose caller cannot wait any longer; and those of its batch when it panics.
            Ok(Err(_)) if Instant::now() < deadline => {
                Err(Error::ShardUnavailable(assignment.shard.clone()))
            }
            Ok(Err(_)) | Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    /// How many messages wait.
    #[must_use]
    pub fn queued(&self) -> u64 {
        let waiting = |queue: &Queue| queue.waiting.load(Ordering::Relaxed) as u64;
        self.queues.iter().map(waiting).sum()
    }
}

/// The hash or random half of the id, which spreads conversations evenly whatever their owners' keys are.
fn low_bits(id: ConversationId) -> u64 {
    let mut low = [0; 8];
    low.copy_from_slice(&id.as_bytes()[8..]);
    u64::from_be_bytes(low)
}

struct Lane {
    shard: Arc<Shard>,
    settings: WriteSettings,
    listener: Arc<dyn CommitListener>,
    relay: relay::Hints,
    waiting: Arc<AtomicUsize>,
    is_cut_off: Arc<AtomicBool>,
    connection: Option<Connection>,
    memberships: MembershipCache,
}

impl Lane {
    async fn run(mut self, jobs: Kept<mpsc::Receiver<Job>>) {
        let mut jobs = jobs.hold().await;
        let max_batch = self.settings.max_batch.max(1) as usize;
        let batch_size = metrics::WRITE_BATCH_MESSAGES.with([self.shard.name().to_string()]);
        let mut batch = Vec::with_capacity(max_batch);
        self.keep_connection().await;
        loop {
            let pause = match self.is_cut_off.load(Ordering::Relaxed) {
                true => REOPEN_EVERY,
                false => KEEP_EVERY,
            };
            let first = tokio::select! {
                biased;
                job = jobs.recv() => job,
                () = tokio::time::sleep(pause) => {
                    self.keep_connection().await;
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut weight = first.work.weight();
            batch.push(first);
            while weight < max_batch
                && let Ok(job) = jobs.try_recv()
            {
                weight += job.work.weight();
                batch.push(job);
            }
            self.waiting.fetch_sub(weight, Ordering::Relaxed);
            let now = Instant::now();
            // Whoever no longer waits was told so, or went away.
            batch.retain(|job| job.deadline > now && !job.reply.is_closed());
            if batch.is_empty() {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^52")]
            batch_size.record(batch.iter().map(|job| job.work.weight()).sum::<usize>() as f64);
            self.commit_all(std::mem::take(&mut batch)).await;
            if self.shard.primary().dialect() == Dialect::Sqlite {
                self.connection = None; // the only writer; others wait for it
            }
        }
    }

    /// While there is nothing to write: a lane without a connection tries to open one, because later there may be none left;
    /// one that has a connection asks it for a sign of life, so that no send is the first to learn that it went silent.
    async fn keep_connection(&mut self) {
        if self.shard.primary().dialect() == Dialect::Sqlite {
            return;
        }
        match &mut self.connection {
            None => self.connection = self.open(Instant::now() + BATCH_DEADLINE).await.ok(),
            Some(connection) => {
                let by = Instant::now() + KEEP_PATIENCE;
                if !connection.is_usable() || !connection.is_alive(by).await {
                    self.connection = None;
                }
            }
        }
    }

    async fn open(&mut self, deadline: Instant) -> Result<Connection> {
        let opened = self.shard.lane(deadline).await;
        if self.shard.primary().dialect() == Dialect::MySql {
            self.memberships.clear(); // what answers now may be a restored copy, whose revs went back
            self.is_cut_off.store(opened.is_err(), Ordering::Relaxed);
        }
        opened
    }

    /// Commits the jobs, together or, where the database refuses one of them, in halves.
    async fn commit_all(&mut self, jobs: Vec<Job>) {
        let mut waiting = vec![jobs];
        while let Some(mut jobs) = waiting.pop() {
            match self.commit(&jobs).await {
                Ok(committed) => self.answer(jobs, committed),
                Err(error) if error.is_of_one_entry() && jobs.len() > 1 => {
                    let second = jobs.split_off(jobs.len() / 2);
                    waiting.extend([second, jobs]);
                }
                Err(error) => {
                    tracing::warn!(shard = %self.shard.name(), jobs = jobs.len(), %error, "a batch was not committed");
                    for job in jobs {
                        let _ = job.reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    fn answer(&self, jobs: Vec<Job>, committed: Committed) {
        self.listener.committed(committed.events);
        for (job, outcome) in jobs.into_iter().zip(committed.outcomes) {
            let _ = job.reply.send(outcome); // whoever no longer waits was told so
        }
        for conversation in committed.marked {
            self.relay.hint(conversation);
        }
    }

    /// One transaction, run again after contention, with a look-up after a repeated client message id, and once on a new
    /// connection when the old one was lost: before the commit was asked for nothing happened, after that the look-up tells
    /// what did.
    async fn commit(&mut self, jobs: &[Job]) -> Result<Committed> {
        self.shard.admit_write()?;
        let deadline = Instant::now() + BATCH_DEADLINE;
        let mut retries = 0;
        let mut look_up = false;
        let mut replaced = false;
        loop {
            let (outcome, stage) = self.attempt(jobs, look_up, deadline).await;
            let may_replace = match stage {
                Stage::Beginning => false,
                Stage::Working => !replaced,
                Stage::Committing => !replaced && repeatable(jobs),
            };
            match outcome {
                Err(Error::Contention(words)) => {
                    let others = self.shard.wait_for_others(&mut retries, deadline, &words);
                    others.await?;
                }
                Err(Error::Statement {
                    fault: StatementFault::UniqueKey,
                    ..
                }) if !look_up => look_up = true,
                Err(Error::ShardUnavailable(_)) if may_replace => {
                    replaced = true;
                    look_up |= stage == Stage::Committing;
                }
                outcome => return outcome,
            }
        }
    }

    /// The transaction, and how far it had come when it failed.
    async fn attempt(
        &mut self,
        jobs: &[Job],
        look_up: bool,
        deadline: Instant,
    ) -> (Result<Committed>, Stage) {
        let kept = self.connection.take().filter(Connection::is_usable);
        let mut connection = match kept {
            Some(connection) => connection,
            // Jobs that were queued before that was known need not wait until it tries again.
            None if self.is_cut_off.load(Ordering::Relaxed) => {
                let shard = self.shard.name().clone();
                return (Err(Error::ShardUnavailable(shard)), Stage::Beginning);
            }
            None => match self.open(deadline).await {
                Ok(connection) => connection,
                Err(error) => return (Err(error), Stage::Beginning),
            },
        };
        connection.extend(deadline);
        let work = async {
            connection.begin().await?;
            Batch::load(&mut connection, jobs, &mut self.memberships, look_up)
                .await?
                .store(&mut connection, jobs)
                .await
        };
        let (outcome, stage) = match work.await {
            Ok(committed) => {
                let outcome = connection.commit().await;
                (outcome.map(|()| committed), Stage::Committing)
            }
            Err(error) => {
                connection.rollback().await;
                (Err(error), Stage::Working)
            }
        };
        if connection.is_usable() {
            self.connection = Some(connection);
        }
        (outcome, stage)
    }
}

/// Whether running the jobs twice is the same as running them once.
fn repeatable(jobs: &[Job]) -> bool {
    let mut drafts = jobs.iter().flat_map(|job| job.drafts());
    drafts.all(|draft| draft.client_msg_id.is_some())
}

/// What a transaction did.
struct Committed {
    outcomes: Vec<Result<Outcome>>,
    events: Vec<Event>,
    marked: HashSet<ConversationId>,
}

type MemberKey<'a> = (ConversationId, &'a UserId);
type MessageKey<'a> = (ConversationId, &'a UserId, &'a str);

/// One transaction's view of the rows its jobs need.
struct Batch<'a> {
    owned: HashSet<u64>,
    heads: HashMap<ConversationId, Head>,
    members: HashMap<MemberKey<'a>, Membership>,
    /// Messages by client message id: those found stored, and those of this batch.
    known: HashMap<MessageKey<'a>, StoredMessage>,
    new: Vec<(ConversationId, StoredMessage)>,
    changed: HashSet<ConversationId>,
    moved: HashSet<MemberKey<'a>>,
    /// Watermarks that the heads no longer tell.
    fallen: Vec<(ConversationId, Membership)>,
    events: Vec<Event>,
}

impl<'a> Batch<'a> {
    /// Checks the fences, locks the heads and reads what the jobs depend on.
    async fn load(
        connection: &mut Connection,
        jobs: &'a [Job],
        memberships: &mut MembershipCache,
        look_up: bool,
    ) -> Result<Self> {
        let mut assignments: Vec<&Assignment> = Vec::new();
        for job in jobs {
            if !assignments.contains(&&job.assignment) {
                assignments.push(&job.assignment);
            }
        }
        let mut ids: Vec<ConversationId> = jobs.iter().map(|job| job.conversation).collect();
        ids.sort_unstable();
        ids.dedup();
        let (heads, allowed) = conversation::lock_heads(connection, &ids, &assignments).await?;
        let owned = assignments
            .iter()
            .zip(allowed)
            .filter(|(_, ok)| *ok)
            .map(|(a, _)| a.range.start)
            .collect();
        let heads: HashMap<ConversationId, Head> = heads
            .into_iter()
            .filter(|head| head.deleted_at.is_none())
            .map(|head| (head.id, head))
            .collect();
        let members = members_of(connection, jobs, &heads, memberships).await?;
        let known = if look_up {
            find_known(connection, jobs).await?
        } else {
            HashMap::new()
        };
        Ok(Self {
            owned,
            heads,
            members,
            known,
            new: Vec::new(),
            changed: HashSet::new(),
            moved: HashSet::new(),
            fallen: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Applies the jobs in their order and writes everything they changed.
    async fn store(mut self, connection: &mut Connection, jobs: &'a [Job]) -> Result<Committed> {
        let now = Timestamp::now();
        let outcomes: Vec<Result<Outcome>> = jobs.iter().map(|job| self.apply(job, now)).collect();
        message::insert(connection, &self.new).await?;
        let changed: Vec<&Head> = self
            .heads
            .values()
            .filter(|head| self.changed.contains(&head.id))
            .collect();
        conversation::save_appended(connection, &changed).await?;
        let moved = self.moved.iter();
        let moved = moved.filter_map(|key| Some((key.0, self.members.get(key)?)));
        let fallen = self.fallen.iter().map(|(id, member)| (*id, member));
        let moved: Vec<(ConversationId, &Membership)> = moved.chain(fallen).collect();
        member::save_watermarks(connection, &moved).await?;
        let own_marks = self.own_marks();
        relay::mark(connection, &own_marks).await?;
        let relayed = changed.iter().filter(|head| head.relayed);
        let mut marked: HashSet<ConversationId> = relayed.map(|head| head.id).collect();
        marked.extend(own_marks.into_iter().map(|(id, _)| id));
        Ok(Committed {
            outcomes,
            events: self.events,
            marked,
        })
    }

    /// A watermark is told to its own user's list, except in a large conversation. Where there is a message too, the head's
    /// mark tells everybody's.
    fn own_marks(&self) -> Vec<(ConversationId, &'a UserId)> {
        let relayed = |id: &ConversationId| self.heads.get(id).is_some_and(|head| head.relayed);
        let moved = self.moved.iter().copied();
        moved
            .filter(|(id, _)| relayed(id) && !self.changed.contains(id))
            .collect()
    }

    fn apply(&mut self, job: &'a Job, now: Timestamp) -> Result<Outcome> {
        if !self.owned.contains(&job.assignment.range.start) {
            return Err(Error::NotOwner(job.assignment.shard.clone()));
        }
        match &job.work {
            Work::Send(drafts) => {
                let sent = drafts.iter().map(|draft| self.send(job, draft, now));
                Ok(Outcome::Sent(sent.collect()))
            }
            Work::Read(seq) => self.watermark(job, *seq, true).map(Outcome::Watermarks),
            Work::Delivered(seq) => self.watermark(job, *seq, false).map(Outcome::Watermarks),
        }
    }

    fn send(&mut self, job: &'a Job, draft: &'a Draft, now: Timestamp) -> Result<Sent> {
        let id = job.conversation;
        let head = self.heads.get_mut(&id).ok_or(Error::NotMember)?;
        let member = self
            .members
            .get_mut(&(id, &job.user))
            .ok_or(Error::NotMember)?;
        let key = draft
            .client_msg_id
            .as_deref()
            .map(|client_msg_id| (id, &job.user, client_msg_id));
        if let Some(stored) = key.and_then(|key| self.known.get(&key)) {
            if stored.body_digest != draft.body_digest {
                return Err(Error::IdempotencyConflict(OTHER_BODY));
            }
            let message = stored.clone().into_message(id, DeliveryStatus::Sent)?;
            return Ok(Sent {
                message,
                created: false,
            });
        }
        if draft.reply_to.is_some_and(|seq| seq > head.head_seq) {
            return Err(Error::invalid("replyTo", "there is no such message"));
        }
        // Time never runs backwards within a conversation, whatever the clocks of several routers say.
        let stored = draft.clone().into_stored(
            head.head_seq.next(),
            head.next_rev(),
            job.user.clone(),
            now.max(head.last_at),
        );
        head.append(&stored);
        head.marked |= head.relayed;
        // Who answers has read. The head tells so, until others have written since.
        member.read_seq = stored.seq;
        member.delivered_seq = stored.seq;
        if let Some((user, seq)) = head.writers.wrote(&job.user, stored.seq) {
            let mut fallen = Membership::unknown(user);
            (fallen.read_seq, fallen.delivered_seq) = (seq, seq);
            self.fallen.push((id, fallen));
        }
        self.changed.insert(id);
        let message = stored.clone().into_message(id, DeliveryStatus::Sent)?;
        self.events.push(Event::MessageCreated(message.clone()));
        if let Some(key) = key {
            self.known.insert(key, stored.clone());
        }
        self.new.push((id, stored));
        Ok(Sent {
            message,
            created: true,
        })
    }

    fn watermark(&mut self, job: &'a Job, seq: Option<Seq>, read: bool) -> Result<Watermarks> {
        let head = self.heads.get(&job.conversation).ok_or(Error::NotMember)?;
        let member = self
            .members
            .get_mut(&(job.conversation, &job.user))
            .ok_or(Error::NotMember)?;
        let seq = seq.unwrap_or(head.head_seq);
        if seq > head.head_seq {
            return Err(Error::invalid(
                "seq",
                format!("the newest message is {}", head.head_seq),
            ));
        }
        let before = (member.read_seq, member.delivered_seq);
        if read {
            member.read_seq = member.read_seq.max(seq);
        }
        member.delivered_seq = member.delivered_seq.max(seq);
        let watermarks = Watermarks {
            conversation_id: job.conversation,
            read_seq: member.read_seq,
            delivered_seq: member.delivered_seq,
            unread_count: head.head_seq.0.saturating_sub(member.read_seq.0),
        };
        if before != (member.read_seq, member.delivered_seq) {
            self.moved.insert((job.conversation, &job.user));
            self.events.push(Event::WatermarksMoved {
                user: job.user.clone(),
                before,
                watermarks,
                members: head.member_count,
            });
        }
        Ok(watermarks)
    }
}

/// The active memberships of the jobs' users. Whoever moves watermarks by themselves needs them as they are stored; a
/// message moves its sender's to the head, wherever they were, so a remembered membership does for it.
async fn members_of<'a>(
    connection: &mut Connection,
    jobs: &'a [Job],
    heads: &HashMap<ConversationId, Head>,
    memberships: &mut MembershipCache,
) -> Result<HashMap<MemberKey<'a>, Membership>> {
    let key = |job: &'a Job| (job.conversation, &job.user);
    let mut unknown: HashSet<MemberKey<'a>> = jobs
        .iter()
        .filter(|job| !matches!(job.work, Work::Send(_)) && heads.contains_key(&job.conversation))
        .map(key)
        .collect();
    let mut members = HashMap::with_capacity(jobs.len());
    for job in jobs {
        let Some(head) = heads.get(&job.conversation) else {
            continue;
        };
        if members.contains_key(&key(job)) || unknown.contains(&key(job)) {
            continue;
        }
        match memberships.get(head, &job.user) {
            Some(membership) => drop(members.insert(key(job), membership.clone())),
            None => drop(unknown.insert(key(job))),
        }
    }
    let unknown: Vec<MemberKey<'a>> = unknown.into_iter().collect();
    let read = member::pairs(connection, &unknown).await?;
    let mut read: HashMap<(ConversationId, UserId), Membership> = read
        .into_iter()
        .filter(|(_, membership)| membership.is_active())
        .map(|(id, membership)| ((id, membership.user.clone()), membership))
        .collect();
    for key in unknown {
        let (id, user) = key;
        if let Some(head) = heads.get(&id)
            && let Some(mut membership) = read.remove(&(id, user.clone()))
        {
            head.writers.move_on([&mut membership]);
            memberships.put(head, membership.clone());
            members.insert(key, membership);
        }
    }
    Ok(members)
}

/// By the unique index `messages_client_msg_id`.
const KNOWN: &str = concat!(
    "SELECT conversation_id, ",
    message_columns!(),
    " FROM messages {by messages_client_msg_id} WHERE "
);

async fn find_known<'a>(
    connection: &mut Connection,
    jobs: &'a [Job],
) -> Result<HashMap<MessageKey<'a>, StoredMessage>> {
    let keys: HashSet<MessageKey<'a>> = jobs
        .iter()
        .flat_map(|job| {
            let named = job.drafts().iter().flat_map(|draft| &draft.client_msg_id);
            named.map(|key| (job.conversation, &job.user, key.as_str()))
        })
        .collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<MessageKey<'a>> = keys.into_iter().collect();
    let args: Vec<Value<'_>> = padded(&keys)
        .flat_map(|(id, user, key)| values![id, *user, key.as_bytes()])
        .collect();
    let columns = ["conversation_id", "sender_id", "client_msg_id"];
    let condition = in_rows(columns, args.len() / 3);
    let mut stored: HashMap<(ConversationId, UserId, String), StoredMessage> = HashMap::new();
    for row in connection
        .fetch_all(&format!("{KNOWN}{condition}"), &args)
        .await?
    {
        let message = StoredMessage::from_row(&row, 1)?;
        let client_msg_id = message.client_msg_id.clone().unwrap_or_default();
        stored.insert(
            (row.conversation(0)?, message.sender.clone(), client_msg_id),
            message,
        );
    }
    let found = keys.into_iter().filter_map(|key| {
        Some((
            key,
            stored.remove(&(key.0, key.1.clone(), key.2.to_owned()))?,
        ))
    });
    Ok(found.collect())
}
