//! Write lanes: group commit of sends and watermarks.
//!
//! A lane takes everything that queued up while its previous transaction was committing, and what comes in a few milliseconds
//! where that pays ([`gather`]), and runs **one** transaction for all of it: fences and heads locked, heads in id order → memberships not known yet → one multi-row
//! insert → heads, with the mark for the lists and the latest senders → watermarks → commit → answers, then events. A
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
//! The queue is bounded in messages and in bytes: beyond either a send is refused at once. A crash loses what was not committed, and no caller has
//! an answer that says otherwise. A lane that panics answers the jobs of its batch with [`Error::ShardUnavailable`], which may be tried again,
//! and begins anew: jobs that still wait in its queue are done then.

mod batch;
mod cache;
mod gather;
mod repeats;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use repeats::repetition;

use batch::{Batch, Committed};
use cache::{Asked, MembershipCache};
use gather::Gathering;

use crate::commit_event::CommitListener;
use crate::db::{Connection, Dialect};
use crate::error::{Error, Result, StatementFault};
use crate::ids::{ConversationId, Seq, ShardName, UserId};
use crate::map::Assignment;
use crate::message::Draft;
use crate::metrics;
use crate::model::{Sent, Watermarks};
use crate::node::Shard;
use crate::relay;
use crate::settings::WriteSettings;
use crate::tasks::{Kept, TaskGroup};
use crate::transaction::Stage;
use crate::waiting::{Place, Room, Size};

/// How long a batch may take, however often it is run. Callers wait by deadlines of their own.
const BATCH_DEADLINE: Duration = Duration::from_secs(30);

/// How often a lane without work looks after its connection, and how long a sign of life may take.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// How long a lane rests that could not open one.
const REOPEN_EVERY: Duration = Duration::from_millis(100);
const KEEP_PATIENCE: Duration = Duration::from_secs(1);

/// Most bytes that wait in one lane. As many messages as wait by default are far below it, unless nearly all are as large as can be.
const QUEUE_BYTES: usize = 64 << 20;

/// Most messages that a caller gives a lane at once.
pub const TOGETHER_MAX: usize = 16;

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

    /// About how many bytes it holds while it waits.
    pub(crate) fn bytes(&self) -> usize {
        let drafts = match self {
            Self::Send(drafts) => drafts.iter().map(Draft::bytes).sum(),
            Self::Read(_) | Self::Delivered(_) => 0,
        };
        size_of::<Job>() + drafts
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
    /// Its place in the lane's queue, until it is taken out of it.
    place: Option<Place>,
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
}

/// What leads into a lane.
#[derive(Debug)]
struct Queue {
    jobs: mpsc::Sender<Job>,
    /// What waits in it (INV-BOUND).
    room: Arc<Room>,
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
            let room = Room::new(Size {
                number: limit,
                bytes: QUEUE_BYTES,
            });
            let is_cut_off = Arc::new(AtomicBool::new(false));
            let new_lane = {
                let (shard, settings) = (shard.clone(), settings.clone());
                let (listener, relay) = (listener.clone(), relay.clone());
                let is_cut_off = is_cut_off.clone();
                move || Lane {
                    shard: shard.clone(),
                    settings: settings.clone(),
                    listener: listener.clone(),
                    relay: relay.clone(),
                    is_cut_off: is_cut_off.clone(),
                    connection: None,
                    memberships: MembershipCache::new(settings.member_cache as usize),
                }
            };
            let name = format!("lane/{}/{number}", shard.name());
            tasks.supervise(name, &stop, move || new_lane().run(jobs.clone()));
            Queue {
                jobs: queue,
                room,
                is_cut_off,
            }
        };
        Self {
            queues: (0..lanes).map(start).collect(),
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
        let overloaded = || Error::Overloaded(assignment.shard.clone());
        let size = Size {
            number: work.weight(),
            bytes: work.bytes(),
        };
        let place = queue.room.take(size).ok_or_else(overloaded)?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            conversation,
            user: user.clone(),
            assignment: assignment.clone(),
            work,
            deadline,
            reply,
            place: Some(place),
        };
        queue.jobs.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => Error::Closing,
        })?;
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
        let waiting = |queue: &Queue| queue.room.taken().number as u64;
        self.queues.iter().map(waiting).sum()
    }
}

/// The hash or random half of the id, which spreads conversations evenly whatever their owners' keys are.
fn low_bits(id: ConversationId) -> u64 {
    let mut low = [0; 8];
    low.copy_from_slice(&id.as_bytes()[8..]);
    u64::from_be_bytes(low)
}

/// What is counted of a lane.
struct Counted {
    batch: ::metrics::Histogram,
    sent: ::metrics::Counter,
    known: ::metrics::Counter,
    read: ::metrics::Counter,
}

impl Counted {
    fn of(shard: &ShardName) -> Self {
        let shard = shard.to_string();
        let lookups =
            |outcome: &str| metrics::MEMBERSHIP_LOOKUPS.with([shard.clone(), outcome.to_owned()]);
        Self {
            batch: metrics::WRITE_BATCH_MESSAGES.with([shard.clone()]),
            sent: metrics::MESSAGES_SENT.with([shard.clone()]),
            known: lookups("known"),
            read: lookups("read"),
        }
    }
}

struct Lane {
    shard: Arc<Shard>,
    settings: WriteSettings,
    listener: Arc<dyn CommitListener>,
    relay: relay::Hints,
    is_cut_off: Arc<AtomicBool>,
    connection: Option<Connection>,
    memberships: MembershipCache,
}

impl Lane {
    async fn run(mut self, jobs: Kept<mpsc::Receiver<Job>>) {
        let mut jobs = jobs.hold().await;
        let max_batch = self.settings.max_batch.max(1) as usize;
        let counted = Counted::of(self.shard.name());
        let mut gathering = Gathering::new(self.settings.gather.0, Instant::now());
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
            let mut batch = gathering.batch(first, &mut jobs, max_batch).await;
            batch.iter_mut().for_each(|job| job.place = None);
            let now = Instant::now();
            // A caller that no longer waits has had its answer, or went away.
            batch.retain(|job| job.deadline > now && !job.reply.is_closed());
            if batch.is_empty() {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^52")]
            let size = batch.iter().map(|job| job.work.weight()).sum::<usize>() as f64;
            counted.batch.record(size);
            let sent = self.commit_all(batch).await;
            counted.sent.increment(sent);
            let Asked { known, unknown } = self.memberships.take_asked();
            counted.known.increment(known);
            counted.read.increment(unknown);
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

    /// Commits the jobs, together or, where the database refuses one of them, in halves; says how many messages are new.
    async fn commit_all(&mut self, jobs: Vec<Job>) -> u64 {
        let mut sent = 0;
        let mut waiting = vec![jobs];
        while let Some(mut jobs) = waiting.pop() {
            match self.commit(&jobs).await {
                Ok(committed) => {
                    sent += committed.created();
                    self.answer(jobs, committed);
                }
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
        sent
    }

    fn answer(&self, jobs: Vec<Job>, committed: Committed) {
        self.listener.committed(committed.events);
        for (job, outcome) in jobs.into_iter().zip(committed.outcomes) {
            let _ = job.reply.send(outcome); // a caller that no longer waits has had its answer
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
        let mut unanswered: Option<Committed> = None;
        loop {
            let (error, stage) = match self.attempt(jobs, look_up, deadline).await {
                Attempt::Committed(committed) => {
                    let was_committed = unanswered.filter(|it| it.is_stored(&committed));
                    return Ok(was_committed.unwrap_or(committed));
                }
                Attempt::Unanswered(error, committed) => {
                    unanswered = Some(committed);
                    (error, Stage::Committing)
                }
                Attempt::Failed(error, stage) => (error, stage),
            };
            let may_replace = match stage {
                Stage::Beginning => false,
                Stage::Working => !replaced,
                Stage::Committing => !replaced && repeatable(jobs),
            };
            match error {
                Error::Contention(words) => {
                    let others = self.shard.wait_for_others(&mut retries, deadline, &words);
                    others.await?;
                }
                Error::Statement {
                    fault: StatementFault::UniqueKey,
                    ..
                } if !look_up => look_up = true,
                Error::ShardUnavailable(_) if may_replace => {
                    replaced = true;
                    look_up |= stage == Stage::Committing;
                }
                error => return Err(error),
            }
        }
    }

    /// The transaction once.
    async fn attempt(&mut self, jobs: &[Job], look_up: bool, deadline: Instant) -> Attempt {
        let kept = self.connection.take().filter(Connection::is_usable);
        let mut connection = match kept {
            Some(connection) => connection,
            // Jobs that were queued before that was known need not wait until it tries again.
            None if self.is_cut_off.load(Ordering::Relaxed) => {
                let shard = self.shard.name().clone();
                return Attempt::Failed(Error::ShardUnavailable(shard), Stage::Beginning);
            }
            None => match self.open(deadline).await {
                Ok(connection) => connection,
                Err(error) => return Attempt::Failed(error, Stage::Beginning),
            },
        };
        connection.extend(deadline);
        let work = async {
            connection.begin().await?;
            Batch::load(&mut connection, jobs, &mut self.memberships, look_up)
                .await?
                .store(jobs)
                .await
        };
        let attempt = match work.await {
            Ok(committed) => match connection.commit().await {
                Ok(()) => Attempt::Committed(committed),
                Err(error) => Attempt::Unanswered(error, committed),
            },
            Err(error) => {
                connection.rollback().await;
                Attempt::Failed(error, Stage::Working)
            }
        };
        if connection.is_usable() {
            self.connection = Some(connection);
        }
        attempt
    }
}

/// How a transaction of a lane ended.
enum Attempt {
    Committed(Committed),
    /// COMMIT was asked for and failed, or was not answered: this may be committed.
    Unanswered(Error, Committed),
    /// It was undone.
    Failed(Error, Stage),
}

/// Whether running the jobs twice is the same as running them once.
fn repeatable(jobs: &[Job]) -> bool {
    let mut drafts = jobs.iter().flat_map(|job| job.drafts());
    drafts.all(|draft| draft.client_msg_id.is_some())
}
