//! The scheduler: every access of every process to the database or the object store waits here until the driver grants it,
//! so that there is one order of all accesses, and the driver chooses it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use backscroll_archiver::object_store::Result as StoreResult;
use backscroll_archiver::object_store::layer::{Attempt, Layer, Request};
use backscroll_shard::db::Value;
use backscroll_shard::model::Timestamp;
use backscroll_shard::steps::{self, Access, Steps};
use tokio::sync::oneshot;

use crate::footprint::Footprint;

/// How a process's accesses are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The process is being opened: the caller that opens it does not wait, and its background tasks stop for good at
    /// their first access. These are the relays of conversation lists, on which nothing here depends.
    Opening,
    /// Every access waits until it is granted.
    Stepped,
    /// No access waits.
    Free,
}

/// Which access of a process is granted first when several of its concurrent streams wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamOrder {
    /// The oldest: streams take turns.
    OldestFirst,
    /// The newest: one stream goes on until it has to wait for another.
    NewestFirst,
}

/// How far the seeds of processes are apart: each takes one a step.
const SEEDS_APART: u64 = 1_000_003;

/// A step that was taken.
#[derive(Clone, Debug)]
pub(crate) struct TakenStep {
    /// The process that took it.
    pub(crate) process: usize,
    /// What it was, for people.
    pub(crate) what: String,
    /// What it read and wrote.
    pub(crate) footprint: Footprint,
}

/// An access that waits to be granted.
#[derive(Debug)]
struct Waiting {
    what: String,
    /// The database whose write lock it takes.
    locks: Option<String>,
    grant: oneshot::Sender<()>,
}

#[derive(Debug)]
struct ProcessState {
    mode: Mode,
    clock_skew: i64,
    seed: u64,
    waiting: Vec<Waiting>,
    is_finished: bool,
    /// The first step of the current call.
    call_began: Option<usize>,
    /// How many steps had been taken when a transaction of the process was committed last.
    last_commit: usize,
}

#[derive(Debug, Default)]
struct State {
    processes: Vec<ProcessState>,
    /// The process in a write transaction, by database.
    write_locks: HashMap<String, usize>,
    steps: Vec<TakenStep>,
    /// What the current write transaction has read and written.
    transaction: Footprint,
    violations: Vec<String>,
}

/// Orders the accesses of a schedule's processes. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    state: Arc<Mutex<State>>,
    start: i64,
}

impl Scheduler {
    /// One without processes, whose clock begins at `start`.
    pub(crate) fn new(start: Timestamp) -> Self {
        Self {
            state: Arc::default(),
            start: start.0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // An access that its process has given up, because another one beside it failed, is no step.
        for process in &mut state.processes {
            process.waiting.retain(|waiting| !waiting.grant.is_closed());
        }
        state
    }

    /// Adds a process, which is about to be opened. Its clock is `clock_skew` milliseconds ahead, and the names of what it
    /// makes follow from `seed`.
    pub(crate) fn add_process(&self, clock_skew: i64, seed: u64) -> Gate {
        let mut state = self.lock();
        state.processes.push(ProcessState {
            mode: Mode::Opening,
            clock_skew,
            seed: seed.wrapping_mul(SEEDS_APART),
            waiting: Vec::new(),
            is_finished: false,
            call_began: None,
            last_commit: 0,
        });
        Gate {
            scheduler: self.clone(),
            process: state.processes.len() - 1,
        }
    }

    /// The processes with an access that can be granted.
    pub(crate) fn runnable(&self) -> Vec<usize> {
        let state = self.lock();
        let is_runnable = |index: &usize| {
            let process = &state.processes[*index];
            let mut waiting = process.waiting.iter();
            !process.is_finished
                && waiting.any(|waiting| can_lock(&state.write_locks, *index, waiting))
        };
        (0..state.processes.len()).filter(is_runnable).collect()
    }

    /// Whether every process waits or is finished, so that nothing moves until an access is granted. The runtime must be
    /// idle.
    pub(crate) fn is_quiescent(&self) -> bool {
        let rests = |process: &ProcessState| {
            process.is_finished || process.mode != Mode::Stepped || !process.waiting.is_empty()
        };
        self.lock().processes.iter().all(rests)
    }

    /// Whether every process is finished.
    pub(crate) fn is_finished(&self) -> bool {
        let mut state = self.lock();
        let mut processes = state.processes.iter_mut();
        processes.all(|process| process.is_finished || process.mode != Mode::Stepped)
    }

    /// Grants a runnable process its next access, which is the next step.
    pub(crate) fn grant(&self, index: usize, order: StreamOrder) {
        let mut state = self.lock();
        let state = &mut *state;
        let step = state.steps.len();
        let process = &mut state.processes[index];
        let mut grantable = (0..process.waiting.len())
            .filter(|place| can_lock(&state.write_locks, index, &process.waiting[*place]));
        let place = match order {
            StreamOrder::OldestFirst => grantable.next(),
            StreamOrder::NewestFirst => grantable.next_back(),
        };
        let waiting = process.waiting.remove(place.expect("it is runnable"));
        if let Some(database) = &waiting.locks {
            state.write_locks.insert(database.clone(), index);
        }
        process.call_began.get_or_insert(step);
        state.steps.push(TakenStep {
            process: index,
            what: waiting.what,
            footprint: Footprint::default(),
        });
        self.use_clock_of(process, step + 1);
        waiting.grant.send(()).expect("it waits");
    }

    /// Sets this thread's clock and names to those of a process. The clock moves a millisecond a step.
    fn use_clock_of(&self, process: &mut ProcessState, step: usize) {
        let elapsed = i64::try_from(step).expect("few steps");
        let now = Timestamp(self.start + elapsed + process.clock_skew);
        steps::set_now(Some(now));
        process.seed = process.seed.wrapping_add(1);
        steps::set_seed(Some(process.seed.wrapping_mul(0x2545_f491_4f6c_dd1d)));
    }

    /// How many steps were taken.
    pub(crate) fn step_count(&self) -> usize {
        self.lock().steps.len()
    }

    /// The steps that were taken.
    pub(crate) fn steps(&self) -> Vec<TakenStep> {
        self.lock().steps.clone()
    }

    /// What the last step read and wrote; nothing before the first.
    pub(crate) fn last_footprint(&self) -> Footprint {
        let state = self.lock();
        let last = state.steps.last().map(|step| step.footprint.clone());
        last.unwrap_or_default()
    }

    /// Notes something that must not happen.
    pub(crate) fn add_violation(&self, violation: String) {
        self.lock().violations.push(violation);
    }

    /// What was noted so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }
}

/// Whether a process can take the lock that an access needs.
fn can_lock(write_locks: &HashMap<String, usize>, process: usize, waiting: &Waiting) -> bool {
    let database = waiting.locks.as_ref();
    let holder = database.and_then(|database| write_locks.get(database));
    holder.is_none_or(|holder| *holder == process)
}

/// The steps between a call's beginning and its end, of whatever process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// How many steps had been taken when it began.
    pub(crate) from: usize,
    /// How many when it ended.
    pub(crate) to: usize,
}

/// What a process's accesses pass through: its databases' [`Steps`], and a layer around its object store.
#[derive(Clone)]
pub(crate) struct Gate {
    scheduler: Scheduler,
    process: usize,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", self.process)
    }
}

impl Gate {
    fn update<T>(&self, change: impl FnOnce(&mut ProcessState) -> T) -> T {
        change(&mut self.scheduler.lock().processes[self.process])
    }

    /// From now on every access waits until it is granted.
    pub(crate) fn start_stepping(&self) {
        self.update(|process| process.mode = Mode::Stepped);
    }

    /// From now on no access waits, and this thread's clock is that of this process.
    pub(crate) fn run_freely(&self) {
        self.update(|process| process.mode = Mode::Free);
        self.use_clock();
    }

    /// Sets this thread's clock and names to those of this process.
    pub(crate) fn use_clock(&self) {
        let mut state = self.scheduler.lock();
        let step = state.steps.len();
        let process = &mut state.processes[self.process];
        self.scheduler.use_clock_of(process, step);
    }

    /// The process has nothing more to do; what still waits is never granted.
    pub(crate) fn finish(&self) {
        self.update(|process| process.is_finished = true);
    }

    /// The next step is the first of a new call.
    pub(crate) fn begin_call(&self) {
        self.update(|process| process.call_began = None);
    }

    /// The span of the call that ends now.
    pub(crate) fn end_call(&self) -> Span {
        let to = self.scheduler.step_count();
        let from = self.update(|process| process.call_began.unwrap_or(to));
        Span { from, to }
    }

    /// How many steps had been taken when the process committed last.
    pub(crate) fn last_commit(&self) -> usize {
        self.update(|process| process.last_commit)
    }

    /// Notes something that must not happen.
    pub(crate) fn add_violation(&self, violation: String) {
        self.scheduler.add_violation(violation);
    }

    async fn wait(&self, what: String, locks: Option<String>) {
        let granted = {
            let mut state = self.scheduler.lock();
            let process = &mut state.processes[self.process];
            match process.mode {
                Mode::Free => return,
                // The caller that opens the process is no task of its own.
                Mode::Opening if tokio::task::try_id().is_none() => return,
                Mode::Opening => None,
                Mode::Stepped => {
                    let (grant, granted) = oneshot::channel();
                    process.waiting.push(Waiting { what, locks, grant });
                    Some(granted)
                }
            }
        };
        match granted {
            Some(granted) => granted.await.expect("the scheduler outlives its processes"),
            None => std::future::pending().await,
        }
    }

    fn add_to_step(&self, add: impl FnOnce(&mut Footprint)) {
        let mut state = self.scheduler.lock();
        if state.processes[self.process].mode == Mode::Stepped
            && let Some(step) = state.steps.last_mut()
        {
            add(&mut step.footprint);
        }
    }
}

#[async_trait]
impl Steps for Gate {
    async fn turn(&self, database: &str, access: Access<'_>) {
        match access {
            Access::Statement(statement) if is_measurement(statement) => {}
            Access::Statement(statement) => self.wait(shortened(statement), None).await,
            Access::Transaction => {
                let locks = Some(database.to_owned());
                self.wait("transaction".into(), locks).await;
            }
            Access::Snapshot => self.wait("snapshot".into(), None).await,
        }
    }

    fn ran(&self, database: &str, statement: &str, args: &[Value<'_>], changed: Option<u64>) {
        {
            let mut state = self.scheduler.lock();
            if state.write_locks.get(database) == Some(&self.process) {
                return state.transaction.add_statement(statement, args, changed);
            }
        }
        if !is_measurement(statement) {
            self.add_to_step(|footprint| footprint.add_statement(statement, args, changed));
        }
    }

    fn ended(&self, database: &str, committed: bool) {
        let mut transaction = {
            let mut state = self.scheduler.lock();
            if state.write_locks.get(database) != Some(&self.process) {
                return; // it only read
            }
            state.write_locks.remove(database);
            if committed {
                state.processes[self.process].last_commit = state.steps.len();
            }
            std::mem::take(&mut state.transaction)
        };
        if !committed {
            transaction.undo_writes();
        }
        self.add_to_step(|footprint| footprint.add(transaction));
    }
}

/// Whether a statement outside a transaction only measures how quickly the database answers, as jobs do from time to time.
/// Nothing follows from what it reads.
fn is_measurement(statement: &str) -> bool {
    statement.contains(" FROM leases ")
}

fn shortened(statement: &str) -> String {
    statement.chars().take(120).collect()
}

#[async_trait]
impl Layer for Gate {
    async fn call<T: Send>(&self, request: Request<'_>, attempt: Attempt<'_, T>) -> StoreResult<T> {
        let what = format!("{} {}", request.operation.name(), request.subject);
        self.wait(what, None).await;
        self.add_to_step(|footprint| footprint.add_request(request.operation, request.subject));
        attempt().await
    }
}
