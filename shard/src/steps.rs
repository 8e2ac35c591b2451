//! For tests: every access to a database waits for its turn, and nothing is left to chance.
//!
//! A test that explores how processes interleave opens each of its "processes" within [`scope`]: their databases then
//! ask a [`Steps`] before each access and tell it what ran. An access that has its turn is made without giving the
//! thread up, so on a runtime with one thread a step is whole before anything else moves. Time ([`set_now`]) and the
//! names of what is made ([`set_seed`]) come from the test too, so that the same order of steps is the same run.
//!
//! Compiled only with the feature `steps`, which only tests turn on.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use async_trait::async_trait;

use crate::db::Value;
use crate::model::Timestamp;
use crate::settings::DatabaseUrl;

/// What is about to be done on a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// One statement outside a transaction.
    Statement(&'a str),
    /// A write transaction; its statements are part of the step.
    Transaction,
    /// A transaction that only reads, as of one moment; its statements are part of the step.
    Snapshot,
}

/// Decides whose turn it is, and is told what was done in it.
#[async_trait]
pub trait Steps: fmt::Debug + Send + Sync {
    /// Waits until `access` may be made on the database with this address.
    async fn turn(&self, database: &str, access: Access<'_>);

    /// A statement was run, by itself or in the transaction under way; `changed` says how many rows a write touched, and
    /// nothing for a read or a failure.
    fn ran(&self, database: &str, statement: &str, args: &[Value<'_>], changed: Option<u64>);

    /// The transaction under way is over.
    fn ended(&self, database: &str, committed: bool);
}

tokio::task_local! {
    static STEPS: Arc<dyn Steps>;
}

/// Runs `work`; the databases that it opens ask `steps`.
pub async fn scope<F: Future>(steps: Arc<dyn Steps>, work: F) -> F::Output {
    STEPS.scope(steps, work).await
}

thread_local! {
    static NOW: Cell<Option<i64>> = const { Cell::new(None) };
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What this thread takes for the present from now on; the machine's clock again with `None`.
pub fn set_now(now: Option<Timestamp>) {
    NOW.set(now.map(|now| now.0));
}

pub(crate) fn now() -> Option<i64> {
    NOW.get()
}

/// What the names that this thread makes from now on follow from; chance again with `None`.
pub fn set_seed(seed: Option<u64>) {
    SEED.set(seed);
}

/// The next of the names that follow from the seed, by SplitMix64.
pub(crate) fn name() -> Option<[u8; 16]> {
    let mut seed = SEED.get()?;
    let mut next = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let name = (u128::from(next()) << 64) | u128::from(next());
    SEED.set(Some(seed));
    Some(name.to_be_bytes())
}

/// A database whose accesses wait for their turn.
#[derive(Clone, Debug)]
pub(crate) struct Stepped {
    database: Arc<str>,
    steps: Arc<dyn Steps>,
}

impl Stepped {
    /// Of a database that is opened now; `None` outside a [`scope`].
    pub(crate) fn opened(url: &DatabaseUrl) -> Option<Self> {
        let steps = STEPS.try_with(Arc::clone).ok()?;
        let database = url.0.as_str().into();
        Some(Self { database, steps })
    }

    pub(crate) async fn turn(&self, access: Access<'_>) {
        self.steps.turn(&self.database, access).await;
    }

    pub(crate) fn ran(&self, statement: &str, args: &[Value<'_>], changed: Option<u64>) {
        self.steps.ran(&self.database, statement, args, changed);
    }

    pub(crate) fn ended(&self, committed: bool) {
        self.steps.ended(&self.database, committed);
    }
}

/// Waits for `work`; if `whole`, without letting anything else run on this thread. It must need nothing of this runtime.
pub(crate) async fn at_once<F: Future>(whole: bool, work: F) -> F::Output {
    if whole { block_on(work) } else { work.await }
}

/// Runs `work` to its end on this thread.
pub(crate) fn block_on<F: Future>(work: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut work = pin!(work);
    loop {
        match work.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
