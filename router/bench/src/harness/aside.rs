//! A runtime beside the generator's one thread, for what is not the generator: a job under test, a server.

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// A runtime with threads of its own; its tasks end when this is dropped.
#[derive(Debug)]
pub struct Aside(Option<Runtime>);

impl Aside {
    /// Starts it with so many threads.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start(threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        Ok(Self(Some(runtime)))
    }

    /// Does `work` there, on a thread of its own: a job's future may not be one that can go from thread to thread.
    /// Giving up the wait does not stop it.
    ///
    /// # Errors
    /// When it panics, or as it says.
    pub async fn run<T: Send + 'static, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T> {
        let runtime = self.0.as_ref().context("the runtime has ended")?;
        let handle = runtime.handle().clone();
        let done = runtime.spawn_blocking(move || handle.block_on(work()));
        done.await.context("it panicked")?
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
