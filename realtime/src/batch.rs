//! Questions that many connections ask at once, asked together.
//!
//! What queues up while one batch is being asked makes the next: alone, a question waits for nobody, and in a storm of
//! reconnects thousands cost a few statements. Upholds INV-BOUND: the queue is bounded, and beyond it a question is not asked.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most questions that wait.
const QUEUE: usize = 65_536;
/// Most questions in one batch.
const BATCH: usize = 4096;

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
                let mut keys: Vec<K> = batch.iter().map(|(key, _)| key.clone()).collect();
                let mut seen = std::collections::HashSet::with_capacity(keys.len());
                keys.retain(|key| seen.insert(key.clone()));
                let answers = ask(keys).await;
                for (key, reply) in batch.drain(..) {
                    let _ = reply.send(answers.get(&key).cloned()); // whoever no longer waits went away
                }
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
