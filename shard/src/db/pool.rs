//! A pool of connections to one database.
//!
//! A request takes an idle connection, opens one while there are fewer than the most, or waits in a fair queue for one to
//! be given back. What sets it apart from a plain pool is what happens when a database does not do as it should:
//!
//! - *No connection can be opened* (the server is at its limit, or away). Requests go on waiting: connections that are
//!   there serve them in turn, and one request at a time tries again, with pauses. Only when there is no connection at all,
//!   and has been none for as long as a request may wait, all but the one that tries are refused at once.
//! - *Connections went silent* (a firewall forgot them). One that was idle for a while is asked for a sign of life before it
//!   is used, with a deadline. When it gives none, all that were idle before are dropped with it, so that healing takes
//!   one such deadline and not one a connection. After an error on a connection in use, the idle ones are asked.
//! - *A session is not as it should be* (it was opened while the server was read-only). A request can ask for a connection
//!   that is new.
//!
//! Every wait here ends with the request's deadline or [`Limits::acquire_timeout`]. Nothing is spawned; what is to be done
//! from time to time [`Pool::tidy`] does. A pool of sqlx would give an error to the request that cannot open a connection
//! while others are idle, and ping each connection that is given back, without a deadline.

mod queue;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::queue::{Held, Place, Queue, Slot, Turn};
use crate::error::{Error, Result};

/// A connection that was idle for longer than this is asked for a sign of life.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait for a sign of life, unless half of the acquire timeout is less: the other half is for a new connection.
const PING: Duration = Duration::from_secs(1);
/// Longest leave-taking: a last checkpoint of a file may take a while.
const CLOSE: Duration = Duration::from_secs(5);
/// How long opening a connection may take before its request would rather have one that is given back.
const PATIENCE: Duration = Duration::from_millis(250);

/// Opens, asks and closes connections of one kind.
pub(super) trait Connector: Send + Sync + 'static {
    /// One of them.
    type Connection: Send + 'static;

    /// Opens one, ready for use.
    fn open(&self) -> impl Future<Output = Result<Self::Connection, Unopened>> + Send;

    /// Whether it gives a sign of life; the caller sets the deadline.
    fn ping(connection: &mut Self::Connection) -> impl Future<Output = bool> + Send;

    /// Takes leave of the server; the caller sets the deadline.
    fn close(connection: Self::Connection) -> impl Future<Output = ()> + Send;
}

/// Why a connection was not opened.
#[derive(Debug)]
pub(super) struct Unopened {
    /// [`Error::DatabaseUnavailable`] and [`Error::Contention`] are tried again; any other error ends the request: the
    /// server was reached, and is not to be used.
    pub(super) error: Error,
    /// The server has no room for another: it would have, if one were closed.
    pub(super) at_limit: bool,
}

impl From<Error> for Unopened {
    fn from(error: Error) -> Self {
        Self {
            error,
            at_limit: false,
        }
    }
}

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most connections.
    pub(super) connections: u32,
    /// Longest wait for a connection.
    pub(super) acquire_timeout: Duration,
    /// When an idle connection is closed; never without it.
    pub(super) idle_timeout: Option<Duration>,
}

/// Which connection a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Any that works.
    Any,
    /// One that is opened now.
    New,
}

/// The pool; clones share it.
pub(super) struct Pool<K: Connector> {
    queue: Arc<Queue<K>>,
}

/// A connection on loan. Dropped, it is given back.
pub(super) struct Pooled<K: Connector> {
    held: Option<Held<K>>,
}

impl<K: Connector> Pool<K> {
    /// Nothing is opened before it is needed.
    pub(super) fn new(connector: K, limits: Limits) -> Self {
        Self {
            queue: Queue::new(connector, limits),
        }
    }

    /// A connection, by `deadline` and within the acquire timeout.
    pub(super) async fn acquire(&self, deadline: Instant, wanted: Wanted) -> Result<Pooled<K>> {
        let limit = deadline.min(Instant::now() + self.queue.limits.acquire_timeout);
        loop {
            let turn = match self.queue.take_place()? {
                Place::Now(turn) => Ok(Ok(turn)),
                Place::Later(turn) => timeout_at(limit, turn).await,
            };
            let held = match (turn, wanted) {
                (Ok(Ok(Turn::Use(held))), Wanted::Any) => self.check(held, limit).await,
                (Ok(Ok(Turn::Use(held))), Wanted::New) => self.open(held.replace(), limit).await?,
                (Ok(Ok(Turn::Open(slot))), _) => self.open(slot, limit).await?,
                (Ok(Err(_)), _) => return Err(queue::closed()),
                (Err(_), _) => None,
            };
            match held {
                Some(held) => return Ok(Pooled { held: Some(held) }),
                None if Instant::now() < limit => {}
                None if limit == deadline => return Err(Error::DeadlineExceeded),
                None => return Err(self.too_late()),
            }
        }
    }

    /// Opens a connection, and tries until `limit`. None by then, or when another request tries already; or another that
    /// was given back sooner.
    async fn open(&self, mut slot: Slot<K>, limit: Instant) -> Result<Option<Held<K>>> {
        let queue = &self.queue;
        let wants_other = Instant::now() + PATIENCE;
        let mut place = None; // kept from one try to the next
        loop {
            let mut began = None;
            let attempt = async {
                // It may be put off meanwhile.
                while let Some(next_try) = queue.next_try().filter(|at| *at > Instant::now()) {
                    sleep_until(next_try).await;
                }
                began = Some(Instant::now());
                queue.connector.open().await
            };
            let given = async {
                if place.is_none() {
                    if queue.outage().is_none() {
                        sleep_until(wants_other).await;
                    }
                    match queue.take_other() {
                        Place::Now(other) => return Ok(other),
                        Place::Later(other) => place = Some(other),
                    }
                }
                match &mut place {
                    Some(other) => other.await,
                    None => std::future::pending().await,
                }
            };
            let unopened = tokio::select! {
                biased;
                opened = timeout_at(limit, attempt) => match opened {
                    Ok(Ok(connection)) => {
                        queue.reached(&mut slot);
                        let used = Instant::now();
                        return Ok(Some(Held { connection, used, slot }));
                    }
                    Ok(Err(unopened)) => unopened,
                    Err(_) => no_answer().into(),
                },
                other = given => match other {
                    Ok(held) => {
                        drop(slot);
                        return Ok(self.check(held, limit).await);
                    }
                    Err(_) => return Err(queue::closed()),
                },
            };
            let Some(began) = began else {
                return Ok(None); // the time was over before another try
            };
            let words = match unopened.error {
                Error::DatabaseUnavailable(words) | Error::Contention(words) => words,
                error => {
                    queue.reached(&mut slot);
                    return Err(error);
                }
            };
            let goes_on = queue.failed(&mut slot, began, (words, unopened.at_limit));
            if !goes_on || Instant::now() >= limit {
                return Ok(None);
            }
        }
    }

    /// The connection, if it works. When it gives no sign of life, all that were idle by then are dropped with it.
    async fn check(&self, mut held: Held<K>, limit: Instant) -> Option<Held<K>> {
        let asked = Instant::now();
        let is_fresh = asked.duration_since(held.used) <= FRESH;
        if is_fresh && !self.queue.is_doubted(held.used) {
            return Some(held);
        }
        let by = limit.min(asked + PING.min(self.queue.limits.acquire_timeout / 2));
        if timeout_at(by, K::ping(&mut held.connection)).await == Ok(true) {
            held.used = Instant::now();
            return Some(held);
        }
        drop(held);
        drop(self.queue.take_idle(asked));
        None
    }

    fn too_late(&self) -> Error {
        let limits = &self.queue.limits;
        Error::DatabaseUnavailable(self.queue.outage().unwrap_or_else(|| {
            format!(
                "none of {} connections was free within {:?}",
                limits.connections, limits.acquire_timeout
            )
        }))
    }

    /// How many connections there are, and how many of them are idle.
    pub(super) fn size(&self) -> (u32, u32) {
        self.queue.size()
    }

    /// Whether a connection can be had without waiting for one that is in use.
    #[cfg(feature = "steps")]
    pub(super) fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    #[cfg(test)]
    fn outage(&self) -> Option<String> {
        self.queue.outage()
    }

    /// Whether the server had no room for another connection when one was to be opened last.
    pub(super) fn is_at_limit(&self) -> bool {
        self.queue.is_at_limit()
    }

    /// Closes one connection of several, once it is this request's turn for it, and for a moment opens no other in its place:
    /// another pool needs the room.
    pub(super) async fn give_way(&self, deadline: Instant) {
        if self.size().0 < 2 {
            return;
        }
        let Ok(mut pooled) = self.acquire(deadline, Wanted::Any).await else {
            return;
        };
        if let Some(held) = pooled.held.take() {
            self.queue.rest();
            let _ = timeout(CLOSE, K::close(held.connection)).await;
        }
    }

    /// Closes what was idle for too long; and when no connection can be opened, tries again, so that the pool is well before
    /// a request needs it.
    pub(super) async fn tidy(&self) {
        let limits = &self.queue.limits;
        if let Some(idle_timeout) = limits.idle_timeout
            && let Some(used_before) = Instant::now().checked_sub(idle_timeout)
        {
            for connection in self.queue.take_idle(used_before) {
                let _ = timeout(CLOSE, K::close(connection)).await;
            }
        }
        if let Some(slot) = self.queue.take_try() {
            self.try_once(slot).await;
        }
    }

    async fn try_once(&self, mut slot: Slot<K>) {
        let began = Instant::now();
        let limit = self.queue.limits.acquire_timeout;
        let opened = timeout(limit, self.queue.connector.open()).await;
        match opened.unwrap_or_else(|_| Err(no_answer().into())) {
            Ok(connection) => {
                self.queue.reached(&mut slot);
                let used = Instant::now();
                self.queue.give_back(Held {
                    connection,
                    used,
                    slot,
                });
            }
            Err(Unopened { error, at_limit }) => match error {
                Error::DatabaseUnavailable(words) | Error::Contention(words) => {
                    self.queue.failed(&mut slot, began, (words, at_limit));
                }
                _ => self.queue.reached(&mut slot), // the next request is told why that is not enough
            },
        }
    }

    /// Closes every connection once it is given back; nothing is lent any more.
    pub(super) async fn close(&self) {
        loop {
            let (idle, left, changed) = self.queue.close();
            for connection in idle {
                let _ = timeout(CLOSE, K::close(connection)).await;
            }
            if left == 0 {
                return;
            }
            changed.await;
        }
    }
}

fn no_answer() -> Error {
    Error::DatabaseUnavailable("no answer to a new connection".into())
}

impl<K: Connector> Pooled<K> {
    /// Whether the connection gives a sign of life by `deadline`. If not, it is to be discarded.
    pub(super) async fn is_alive(&mut self, deadline: Instant) -> bool {
        timeout_at(deadline, K::ping(self)).await == Ok(true)
    }

    /// Drops the connection, which ends it; with `doubt`, those that are idle now are asked for a sign of life before they
    /// are used.
    pub(super) fn discard(mut self, doubt: bool) {
        if let Some(held) = self.held.take()
            && doubt
            && let Some(queue) = held.slot.queue()
        {
            queue.doubt(Instant::now());
        }
    }
}

impl<K: Connector> Drop for Pooled<K> {
    fn drop(&mut self) {
        if let Some(mut held) = self.held.take()
            && let Some(queue) = held.slot.queue().cloned()
        {
            held.used = Instant::now();
            queue.give_back(held);
        }
    }
}

impl<K: Connector> Deref for Pooled<K> {
    type Target = K::Connection;

    #[expect(clippy::expect_used, reason = "only its end takes it")]
    fn deref(&self) -> &K::Connection {
        &self.held.as_ref().expect("a connection").connection
    }
}

impl<K: Connector> DerefMut for Pooled<K> {
    #[expect(clippy::expect_used, reason = "only its end takes it")]
    fn deref_mut(&mut self) -> &mut K::Connection {
        &mut self.held.as_mut().expect("a connection").connection
    }
}

impl<K: Connector> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<K: Connector> fmt::Debug for Pool<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, idle) = self.size();
        f.debug_struct("Pool")
            .field("open", &open)
            .field("idle", &idle)
            .finish_non_exhaustive()
    }
}

impl<K: Connector> fmt::Debug for Pooled<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pooled")
    }
}
