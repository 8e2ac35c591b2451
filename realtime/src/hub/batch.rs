//! Questions that many connections ask at once, asked together.
//!
//! A question that comes alone is asked at once; those that follow it within [`PACE`] are asked together. So a storm of
//! reconnects is some batches a second, however many there are. Upholds INV-BOUND: the queue is bounded, and beyond it a
//! question is not asked.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most questions that wait.
const QUEUE: usize = 65_536;
/// Most questions in one batch.
const BATCH: usize = 4096;

/// The least time from one batch to the next.
const PACE: Duration = Duration::from_millis(50);

/// Asks questions of one kind in batches.
#[derive(Debug)]
pub(crate) struct Batcher<K, V> {
    queue: mpsc::Sender<(K, oneshot::Sender<Option<V>>)>,
}

impl<K, V> Batcher<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A batcher that asks `ask`, whose answer lacks what it could not tell, until `closing`.
    pub(crate) fn start<F>(
        (tasks, closing): (&TaskTracker, &CancellationToken),
        ask: impl Fn(Vec<K>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = HashMap<K, V>> + Send,
    {
        let (queue, mut questions) = mpsc::channel::<(K, oneshot::Sender<Option<V>>)>(QUEUE);
        let closing = closing.clone();
        tasks.spawn(async move {
            let mut batch = Vec::new();
            while let Some(1..) = closing
                .run_until_cancelled(questions.recv_many(&mut batch, BATCH))
                .await
            {
                let next = Instant::now() + PACE;
                let mut keys: Vec<K> = batch.iter().map(|(key, _)| key.clone()).collect();
                let mut seen = std::collections::HashSet::with_capacity(keys.len());
                keys.retain(|key| seen.insert(key.clone()));
                let answers = ask(keys).await;
                for (key, reply) in batch.drain(..) {
                    let _ = reply.send(answers.get(&key).cloned()); // whoever no longer waits went away
                }
                tokio::time::sleep_until(next).await;
            }
        });
        Self { queue }
    }

    /// The answer; none when it could not be had.
    pub(crate) async fn ask(&self, key: K) -> Option<V> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((key, reply)).ok()?;
        answer.await.ok().flatten()
    }
}
