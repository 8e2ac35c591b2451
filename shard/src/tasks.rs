//! Tasks: how they are started, and what follows when one ends.
//!
//! Everything that runs beside its caller is started here, as one of two kinds (`clippy.toml` refuses other ways):
//!
//! - A **supervised** task runs until its owner stops it: a write lane, a relay, the loop that accepts connections. If it
//!   ends before that, by a panic or by returning, its [`Supervisor`] logs and counts the end, lists the task in
//!   [`Supervisor::down`] (and `/readyz` fails), and starts it again after a pause that doubles each time. State that has
//!   to outlive a run, such as the queue that leads into a lane, is [`Kept`]. A task that ends [`MOST_RESTARTS`] times more
//!   without having run for [`STEADY`] is given up: [`Supervisor::given_up`] tells the service, which ends with an error,
//!   so that the service manager starts the process again.
//! - A **one-shot** does one piece of work: a connection, a fetch, an upload. Each kind has a bound (INV-BOUND); beyond it
//!   the caller is refused and does without. A panic is logged, counted, and passed on to the task's join handle.
//!
//! A [`TaskGroup`] is what an owner starts its tasks in and waits for when it closes. A crash leaves nothing behind: no
//! task holds state that the databases do not have.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::metrics;
use futures_util::FutureExt as _;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a task is started again before it is given up.
pub const MOST_RESTARTS: u32 = 6;
/// A task that has run for this long has recovered: its restarts are counted from none again.
pub const STEADY: Duration = Duration::from_secs(60);
/// The pause before the first restart; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What a test does to a run of a supervised task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The run panics after this time.
    Panic(Duration),
    /// The run does not end when it is told to.
    Hang,
}

/// Gives the fault of a run of the named task that is about to begin.
pub type Faults = Arc<dyn Fn(&str) -> Option<Fault> + Send + Sync>;

/// Watches the supervised tasks of a process. Clones are the same.
#[derive(Clone, Default)]
pub struct Supervisor(Arc<Shared>);

struct Shared {
    tasks: Mutex<Vec<Arc<Task>>>,
    one_shots: Mutex<Vec<Weak<Kind>>>,
    given_up: watch::Sender<Option<Arc<str>>>,
    faults: Option<Faults>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            tasks: Mutex::default(),
            one_shots: Mutex::default(),
            given_up: watch::Sender::new(None),
            faults: None,
        }
    }
}

/// A supervised task.
struct Task {
    name: Arc<str>,
    /// Cancelled when it is to end.
    stop: CancellationToken,
    is_down: AtomicBool,
}

fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    // Nothing panics half-way through a change.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// A supervisor whose tasks have the faults that a test wants.
    #[must_use]
    pub fn with_faults(faults: Option<Faults>) -> Self {
        Self(Arc::new(Shared {
            faults,
            ..Shared::default()
        }))
    }

    /// A new group of tasks.
    #[must_use]
    pub fn group(&self) -> TaskGroup {
        TaskGroup {
            supervisor: self.clone(),
            tracker: TaskTracker::new(),
        }
    }

    /// The names of the supervised tasks that were started and have not been stopped.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.names_of(|_| true)
    }

    /// The names of the tasks that have ended and wait to be started again, or were given up.
    #[must_use]
    pub fn down(&self) -> Vec<Arc<str>> {
        self.names_of(|task| task.is_down.load(Ordering::Relaxed))
    }

    fn names_of(&self, is_wanted: impl Fn(&Task) -> bool) -> Vec<Arc<str>> {
        let tasks = lock(&self.0.tasks);
        let wanted = tasks.iter().filter(|task| is_wanted(task));
        wanted.map(|task| Arc::clone(&task.name)).collect()
    }

    /// What was told to end and has not.
    #[must_use]
    pub fn stuck(&self) -> Stuck {
        let kinds: Vec<Arc<Kind>> = lock(&self.0.one_shots)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let closed = kinds.iter().filter(|kind| kind.tracker.is_closed());
        let running = closed.map(|kind| (kind.name, kind.running.load(Ordering::Relaxed)));
        Stuck {
            tasks: self.names_of(|task| task.stop.is_cancelled()),
            one_shots: running.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Waits until a task has been given up; gives its name.
    pub async fn given_up(&self) -> Arc<str> {
        let mut given_up = self.0.given_up.subscribe();
        loop {
            let name = given_up.borrow_and_update().clone();
            match name {
                Some(name) => return name,
                None => _ = given_up.changed().await, // the sender is ours
            }
        }
    }

    /// Sets the gauge [`metrics::TASK_UP`] of every supervised task.
    pub fn measure(&self) {
        for task in lock(&self.0.tasks).iter() {
            let up = !task.is_down.load(Ordering::Relaxed);
            metrics::TASK_UP
                .with([Arc::clone(&task.name)])
                .set(f64::from(u8::from(up)));
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// What was told to end and has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// Supervised tasks.
    pub tasks: Vec<Arc<str>>,
    /// One-shots: their kind, and how many of it.
    pub one_shots: Vec<(&'static str, usize)>,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.tasks.iter().map(ToString::to_string);
        let one_shots = self.one_shots.iter();
        let one_shots = one_shots.map(|(name, count)| format!("{name} ({count})"));
        let all: Vec<String> = tasks.chain(one_shots).collect();
        f.write_str(if all.is_empty() { "no task" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

/// State that outlives the runs of a supervised task. One run at a time holds it.
#[derive(Debug)]
pub struct Kept<T>(Arc<tokio::sync::Mutex<T>>);

impl<T> Kept<T> {
    /// Keeps `state`.
    pub fn new(state: T) -> Self {
        Self(Arc::new(tokio::sync::Mutex::new(state)))
    }

    /// Takes hold of it, for one run.
    pub async fn hold(&self) -> OwnedMutexGuard<T> {
        Arc::clone(&self.0).lock_owned().await
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The tasks of one owner. Clones are the same group.
#[derive(Clone, Debug)]
pub struct TaskGroup {
    supervisor: Supervisor,
    tracker: TaskTracker,
}

impl TaskGroup {
    /// Starts a supervised task, which runs until `stop` is cancelled. `run` makes each of its runs: it has to begin from
    /// what is [`Kept`] or shared, as if the last run had been cut off anywhere.
    #[expect(clippy::disallowed_methods, reason = "the place where tasks start")]
    pub fn supervise<F>(
        &self,
        name: impl Into<Arc<str>>,
        stop: &CancellationToken,
        run: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = Arc::new(Task {
            name: name.into(),
            stop: stop.clone(),
            is_down: AtomicBool::new(false),
        });
        lock(&self.supervisor.0.tasks).push(Arc::clone(&task));
        let listed = Listed {
            supervisor: self.supervisor.clone(),
            task,
        };
        self.tracker.spawn(listed.keep_running(run));
    }

    /// A kind of one-shots that this group waits for; at most `most` at once.
    #[must_use]
    pub fn one_shots(&self, name: &'static str, most: usize) -> OneShots {
        let kind = OneShots::tracked(name, most, self.tracker.clone());
        let mut kinds = lock(&self.supervisor.0.one_shots);
        kinds.retain(|kind| kind.strong_count() > 0);
        kinds.push(Arc::downgrade(&kind.0));
        kind
    }

    /// Waits until all tasks of the group have ended, which their owner has told them to, but not beyond `deadline`.
    /// Whether they have.
    pub async fn finish(&self, deadline: Instant) -> bool {
        self.tracker.close();
        tokio::time::timeout_at(deadline.into(), self.tracker.wait())
            .await
            .is_ok()
    }

    /// The supervisor of its tasks.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }
}

/// A task's place in its supervisor's list, until it is dropped.
struct Listed {
    supervisor: Supervisor,
    task: Arc<Task>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.supervisor.0.tasks).retain(|task| !Arc::ptr_eq(task, &self.task));
    }
}

impl Listed {
    async fn keep_running<F>(self, mut run: impl FnMut() -> F)
    where
        F: Future<Output = ()>,
    {
        let task = &self.task;
        let mut restarts = 0;
        loop {
            let started = tokio::time::Instant::now();
            let ended = AssertUnwindSafe(self.run_once(&mut run)).catch_unwind();
            let panic = ended.await.err();
            let is_stopping = task.stop.is_cancelled();
            if is_stopping && panic.is_none() {
                return;
            }
            if started.elapsed() >= STEADY {
                restarts = 0;
            }
            let how = if panic.is_some() { "panic" } else { "return" };
            count_end(&task.name, how);
            let why = panic.map_or_else(|| "it returned".to_owned(), |panic| panic_text(&*panic));
            task.is_down.store(true, Ordering::Relaxed);
            if is_stopping {
                tracing::error!(task = %task.name, why, "a task ended while it was to stop");
                return;
            }
            if restarts == MOST_RESTARTS {
                tracing::error!(task = %task.name, why, restarts, "a task ended again and is given up; the process has to be started anew");
                self.give_up().await;
                return;
            }
            let pause = FIRST_PAUSE * 2_u32.pow(restarts);
            restarts += 1;
            tracing::error!(task = %task.name, why, restarts, ?pause, "a task ended; it is started again");
            let paused = tokio::time::sleep(pause);
            if task.stop.run_until_cancelled(paused).await.is_none() {
                return;
            }
            task.is_down.store(false, Ordering::Relaxed);
        }
    }

    async fn run_once<F: Future<Output = ()>>(&self, run: &mut impl FnMut() -> F) {
        let faults = self.supervisor.0.faults.as_ref();
        match faults.and_then(|fault| fault(&self.task.name)) {
            None => run().await,
            Some(Fault::Panic(after)) => tokio::select! {
                () = run() => {}
                () = tokio::time::sleep(after) => panic!("as a test asks"),
            },
            Some(Fault::Hang) => {
                run().await;
                std::future::pending().await
            }
        }
    }

    /// Tells the service, and stays listed as down until it stops.
    async fn give_up(&self) {
        let name = Arc::clone(&self.task.name);
        self.supervisor.0.given_up.send_if_modified(|given_up| {
            let is_first = given_up.is_none();
            given_up.get_or_insert(name);
            is_first
        });
        self.task.stop.cancelled().await;
    }
}

fn count_end(name: &Arc<str>, how: &'static str) {
    let name = Arc::clone(name);
    metrics::TASK_ENDS
        .with([
            metrics::SharedString::from(name),
            metrics::SharedString::from(how),
        ])
        .increment(1);
}

/// The text that a panic was raised with.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a text"))
}

/// One-shots of one kind. Clones are the same.
#[derive(Clone, Debug)]
pub struct OneShots(Arc<Kind>);

#[derive(Debug)]
struct Kind {
    name: &'static str,
    most: usize,
    running: AtomicUsize,
    tracker: TaskTracker,
}

/// There are as many one-shots of a kind as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {most} tasks `{name}` already")]
pub struct Full {
    name: &'static str,
    most: usize,
}

impl OneShots {
    /// A kind that nobody waits for: at the end of the process they are cut off.
    #[must_use]
    pub fn new(name: &'static str, most: usize) -> Self {
        Self::tracked(name, most, TaskTracker::new())
    }

    fn tracked(name: &'static str, most: usize, tracker: TaskTracker) -> Self {
        Self(Arc::new(Kind {
            name,
            most,
            running: AtomicUsize::new(0),
            tracker,
        }))
    }

    /// A place for one more.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve(&self) -> Result<Place, Full> {
        let place = Place(Arc::clone(&self.0));
        let others = self.0.running.fetch_add(1, Ordering::Relaxed);
        if others < self.0.most {
            return Ok(place);
        }
        let (name, most) = (self.0.name, self.0.most);
        metrics::TASKS_REFUSED.with([name]).increment(1);
        Err(Full { name, most }) // the place is given back
    }

    /// How many there are.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    /// Runs `work` in a task of its own.
    ///
    /// # Errors
    /// When there are too many already; `work` was dropped.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<JoinHandle<T>, Full> {
        Ok(self.reserve()?.spawn(work))
    }
}

/// A place among the one-shots of a kind, given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Kind>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Runs `work` in a task of its own.
    #[expect(clippy::disallowed_methods, reason = "the place where tasks start")]
    pub fn spawn<T: Send + 'static>(
        self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(self.watch(work))
    }

    /// The same for work that a library puts into a task.
    // Combinators: an `async` block would hold `work` twice.
    pub fn watch<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        let token = self.0.tracker.token();
        AssertUnwindSafe(work).catch_unwind().map(move |ended| {
            let (Self(kind), _token) = (&self, token);
            ended.unwrap_or_else(|panic| {
                let why = panic_text(&*panic);
                tracing::error!(
                    task = kind.name,
                    why,
                    "a task ended before its work was done"
                );
                count_end(&Arc::from(kind.name), "panic");
                resume_unwind(panic)
            })
        })
    }
}

#[cfg(test)]
mod tests;
