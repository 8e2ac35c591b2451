//! The tasks behind a node's bus and roster, shared by both.

use std::time::{Duration, Instant};

use backscroll_shard::tasks::{Supervisor, TaskGroup};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long tasks have to end that wait for nothing.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// The tasks. They end when the last user drops this, or in order with [`Running::close`].
pub(super) struct Running {
    /// Ends the task that publishes, which then publishes what is left.
    pub(super) publishing: CancellationToken,
    publisher: TaskGroup,
    rest: CancellationToken,
    tasks: TaskGroup,
    _guards: [DropGuard; 2],
}

impl Running {
    pub(super) fn new(supervisor: &Supervisor) -> Self {
        let (publishing, rest) = (CancellationToken::new(), CancellationToken::new());
        Self {
            _guards: [publishing.clone().drop_guard(), rest.clone().drop_guard()],
            publishing,
            publisher: supervisor.group(),
            rest,
            tasks: supervisor.group(),
        }
    }

    /// Starts a task that runs until the tasks are to end.
    pub(super) fn supervise<F>(&self, name: &'static str, run: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start((&self.tasks, &self.rest), name, run);
    }

    /// Starts the task that publishes, which has time to publish what is left.
    pub(super) fn publish<F>(&self, name: &'static str, run: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start((&self.publisher, &self.publishing), name, run);
    }

    fn start<F>(
        &self,
        (group, stop): (&TaskGroup, &CancellationToken),
        name: &'static str,
        run: impl Fn() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let rest = self.rest.clone();
        group.supervise(name, stop, move || {
            let (rest, run) = (rest.clone(), run());
            async move {
                rest.run_until_cancelled(run).await;
            }
        });
    }

    /// Lets the publisher publish what is left, but not beyond `deadline`, then ends all tasks.
    pub(super) async fn close(&self, deadline: Instant) {
        self.publishing.cancel();
        self.publisher.finish(deadline).await;
        self.rest.cancel();
        let last = Instant::now() + LAST_TIMEOUT;
        self.publisher.finish(last).await;
        self.tasks.finish(last).await;
    }
}
