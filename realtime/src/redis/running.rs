//! The tasks behind a node's bus and roster, shared by both.

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The tasks. They end when the last user drops this, or in order with [`Running::close`].
pub(super) struct Running {
    /// Ends the task that publishes, which then publishes what is left.
    pub(super) publishing: CancellationToken,
    pub(super) publisher: TaskTracker,
    rest: CancellationToken,
    tasks: TaskTracker,
    _guards: [DropGuard; 2],
}

impl Running {
    pub(super) fn new() -> Self {
        let (publishing, rest) = (CancellationToken::new(), CancellationToken::new());
        Self {
            _guards: [publishing.clone().drop_guard(), rest.clone().drop_guard()],
            publishing,
            publisher: TaskTracker::new(),
            rest,
            tasks: TaskTracker::new(),
        }
    }

    /// Runs `task` until it ends or the tasks are to end.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let rest = self.rest.clone();
        self.tasks.spawn(async move {
            rest.run_until_cancelled(task).await;
        });
    }

    /// Lets the publisher publish what is left, then ends all tasks.
    pub(super) async fn close(&self) {
        self.publishing.cancel();
        self.publisher.close();
        self.publisher.wait().await;
        self.rest.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
