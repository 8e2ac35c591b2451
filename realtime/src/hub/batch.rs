//! Batches questions that many sessions ask at the same time.
//!
//! The first question is asked at once; those that follow within [`PACE`] are asked together. So a wave of reconnects costs a
//! few batches a second, however large it is. The queue is bounded; a question that finds no room is not asked (INV-BOUND).

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::tasks::{Kept, TaskGroup};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most questions that wait.
const QUEUE: usize = 65_536;
/// Most questions in one batch.
const BATCH: usize = 4096;

/// The least time from one batch to the next.
const PACE: Duration = Duration::from_millis(50);

/// A question, and where its answer goes.
type Question<K, V> = (K, oneshot::Sender<Option<V>>);

/// Asks questions of one kind in batches.
#[derive(Debug)]
pub(crate) struct Batcher<K, V> {
    queue: mpsc::Sender<Question<K, V>>,
}

impl<K, V> Batcher<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A batcher that puts the questions to `ask` until `closing`, in a task called `name`. A question that cannot be answered is
    /// absent from the answer.
    pub(crate) fn start<F>(
        name: &'static str,
        (tasks, closing): (&TaskGroup, &CancellationToken),
        ask: impl Fn(Vec<K>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = HashMap<K, V>> + Send + 'static,
    {
        let (queue, questions) = mpsc::channel(QUEUE);
        let (questions, ask, stop) = (Kept::new(questions), Arc::new(ask), closing.clone());
        tasks.supervise(name, closing, move || {
            Self::run(questions.clone(), Arc::clone(&ask), stop.clone())
        });
        Self { queue }
    }

    async fn run<F>(
        questions: Kept<mpsc::Receiver<Question<K, V>>>,
        ask: Arc<impl Fn(Vec<K>) -> F>,
        closing: CancellationToken,
    ) where
        F: Future<Output = HashMap<K, V>> + Send,
    {
        let mut questions = questions.hold().await;
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
                let _ = reply.send(answers.get(&key).cloned()); // fails when the session has ended meanwhile
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// The answer to a question; none when it cannot be answered.
    pub(crate) async fn ask(&self, key: K) -> Option<V> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((key, reply)).ok()?;
        answer.await.ok().flatten()
    }
}
