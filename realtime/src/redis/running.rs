//! The tasks behind a node's bus and roster, shared by both.

use std::time::{Duration, Instant};

use backscroll_shard::tasks::{Supervisor, TaskGroup};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The tasks. They end when the last user drops this, or in order with [`Running::close`].
pub(super) struct Running {
    /// Ends the task that publishes, which then publishes what is left.
    pub(super) publishing: CancellationToken,
    pub(super) publisher: TaskGroup,
    rest: CancellationToken,
    tasks: TaskGroup,
    close_timeout: Duration,
    _guards: [DropGuard; 2],
}

impl Running {
    pub(super) fn new(supervisor: &Supervisor, close_timeout: Duration) -> Self {
        let (publishing, rest) = (CancellationToken::new(), CancellationToken::new());
        Self {
            _guards: [publishing.clone().drop_guard(), rest.clone().drop_guard()],
            publishing,
            publisher: supervisor.group(),
            rest,
            tasks: supervisor.group(),
            close_timeout,
        }
    }

    /// Starts a task that runs until the tasks are to end.
    pub(super) fn supervise<F>(&self, name: &'static str, run: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let rest = self.rest.clone();
        self.tasks.supervise(name, &self.rest, move || {
            let (rest, run) = (rest.clone(), run());
            async move {
                rest.run_until_cancelled(run).await;
            }
        });
    }

    /// Lets the publisher publish what is left, then ends all tasks. It takes at most the time that it was given.
    pub(super) async fn close(&self) {
        let deadline = Instant::now() + self.close_timeout;
        self.publishing.cancel();
        self.publisher.finish(deadline).await;
        self.rest.cancel();
        self.tasks.finish(deadline).await;
    }
}
