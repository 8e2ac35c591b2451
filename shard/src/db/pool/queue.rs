//! Who has which connection, who waits, and whether any can be opened: what the requests of a pool share, behind one
//! lock that is never held across a wait.
//!
//! A connection is counted by its [`Slot`]. One that is not idle carries it along, so that however a request ends, also
//! when nobody awaits it any more, its slot goes to the next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, futures::Notified, oneshot};
use tokio::time::Instant;

use super::{Connector, Limits};
use crate::error::{Error, Result};

/// The pause between two tries to open a connection grows from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// How long a pool opens no connection after it gave way to another.
const REST: Duration = Duration::from_millis(500);

/// What the requests of a pool share.
pub(super) struct Queue<K: Connector> {
    pub(super) connector: K,
    pub(super) limits: Limits,
    state: Mutex<State<K>>,
    /// Told whenever a connection is given back or gone.
    changed: Notify,
}

struct State<K: Connector> {
    /// The one used last is at the end.
    idle: Vec<Idle<K>>,
    /// Connections that are idle, lent or being opened; at most [`Limits::connections`].
    slots: u32,
    /// Of these, those that are being opened.
    opening: u32,
    /// Only when nothing is idle.
    waiting: VecDeque<Waiting<K>>,
    /// Those that were used last before this are asked for a sign of life.
    doubted: Option<Instant>,
    outage: Option<Outage>,
    closed: bool,
}

/// A request that waits.
enum Waiting<K: Connector> {
    /// For a connection, or for the right to open one.
    Turn(oneshot::Sender<Turn<K>>),
    /// For a connection: it has that right, and tries meanwhile.
    Other(oneshot::Sender<Held<K>>),
}

impl<K: Connector> Waiting<K> {
    fn has_gone(&self) -> bool {
        match self {
            Self::Turn(sender) => sender.is_closed(),
            Self::Other(sender) => sender.is_closed(),
        }
    }

    /// Gives it a connection, or the connection back if the request has gone this moment.
    fn give(self, held: Held<K>) -> Result<(), Held<K>> {
        match self {
            Self::Turn(sender) => match sender.send(Turn::Use(held)) {
                Err(Turn::Use(held)) => Err(held),
                Ok(()) | Err(Turn::Open(_)) => Ok(()),
            },
            Self::Other(sender) => sender.send(held),
        }
    }
}

struct Idle<K: Connector> {
    connection: K::Connection,
    used: Instant,
}

/// No connection can be opened.
struct Outage {
    /// When the first try began that failed.
    since: Instant,
    /// When the last one failed.
    seen: Instant,
    /// Why.
    words: String,
    /// The server has no room for another.
    at_limit: bool,
    /// A request is trying; the others wait.
    tried: bool,
    next_try: Instant,
    pause: Duration,
}

impl Outage {
    fn since(began: Instant) -> Self {
        Self {
            since: began,
            seen: began,
            words: "its connections make room for another pool".into(),
            at_limit: false,
            tried: false,
            next_try: began,
            pause: PAUSES.0,
        }
    }
}

/// An end of the queue.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

/// What a request gets when it is its turn.
pub(super) enum Turn<K: Connector> {
    /// A connection.
    Use(Held<K>),
    /// The right to open one.
    Open(Slot<K>),
}

/// When a request gets what it waits for.
pub(super) enum Place<T> {
    Now(T),
    /// An error when the pool is closed.
    Later(oneshot::Receiver<T>),
}

/// A connection that is not idle.
pub(super) struct Held<K: Connector> {
    pub(super) connection: K::Connection,
    /// When it worked last.
    pub(super) used: Instant,
    pub(super) slot: Slot<K>,
}

/// The right to have one connection. Dropped, it goes to the next who waits.
pub(super) struct Slot<K: Connector> {
    queue: Option<Arc<Queue<K>>>,
    opening: bool,
    /// It belongs to the request that tries during an outage.
    trying: bool,
}

impl<K: Connector> Queue<K> {
    pub(super) fn new(connector: K, limits: Limits) -> Arc<Self> {
        let state = State {
            idle: Vec::new(),
            slots: 0,
            opening: 0,
            waiting: VecDeque::new(),
            doubted: None,
            outage: None,
            closed: false,
        };
        Arc::new(Self {
            connector,
            limits,
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn at once, or a place in the queue. An error when there is no connection, and all tries failed for as long as a
    /// request may wait, also lately: then one request tries, and the others need not wait with it.
    pub(super) fn take_place(self: &Arc<Self>) -> Result<Place<Turn<K>>> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        if let Some(held) = self.take_newest(&mut state) {
            return Ok(Place::Now(Turn::Use(held)));
        }
        if let Some(slot) = self.new_slot(&mut state) {
            return Ok(Place::Now(Turn::Open(slot)));
        }
        if let Some(outage) = &state.outage
            && state.slots == state.opening
            && outage.since.elapsed() >= self.limits.acquire_timeout
            && outage.seen.elapsed() <= self.limits.acquire_timeout
        {
            return Err(Error::DatabaseUnavailable(outage.words.clone()));
        }
        Ok(Place::Later(state.enqueue(Waiting::Turn)))
    }

    /// An idle connection, or a place behind those who wait for one: for a request that tries to open one meanwhile.
    pub(super) fn take_other(self: &Arc<Self>) -> Place<Held<K>> {
        let mut state = self.lock();
        match self.take_newest(&mut state) {
            Some(held) => Place::Now(held),
            None => Place::Later(state.enqueue(Waiting::Other)),
        }
    }

    fn take_newest(self: &Arc<Self>, state: &mut State<K>) -> Option<Held<K>> {
        let Idle { connection, used } = state.idle.pop()?;
        Some(Held::new(connection, used, self))
    }

    /// During an outage, the right to try whether it is over, unless a request tries already.
    pub(super) fn take_try(self: &Arc<Self>) -> Option<Slot<K>> {
        let mut state = self.lock();
        state.outage.as_ref()?;
        self.new_slot(&mut state)
    }

    /// The right to open a connection: while all is well as long as there are fewer than the most, during an outage for one
    /// request at a time.
    fn new_slot(self: &Arc<Self>, state: &mut State<K>) -> Option<Slot<K>> {
        if state.closed || state.slots >= self.limits.connections {
            return None;
        }
        if let Some(outage) = &mut state.outage {
            if outage.tried {
                return None;
            }
            outage.tried = true;
        }
        state.slots += 1;
        state.opening += 1;
        Some(Slot {
            queue: Some(self.clone()),
            opening: true,
            trying: state.outage.is_some(),
        })
    }

    /// Lets those who wait open connections, as far as there is room. During an outage the last one tries: it queues again
    /// meanwhile, and loses no place by that.
    fn hand_slots_on(self: &Arc<Self>, state: &mut State<K>) {
        loop {
            let end = match state.outage {
                Some(_) => End::Back,
                None => End::Front,
            };
            let Some((place, waiting)) = state.take_without(end) else {
                return;
            };
            let Some(slot) = self.new_slot(state) else {
                return state.waiting.insert(place, Waiting::Turn(waiting));
            };
            if let Err(Turn::Open(mut slot)) = waiting.send(Turn::Open(slot)) {
                slot.queue = None; // that request has gone this moment
                slot.free(state);
            }
        }
    }

    /// Whether a turn can be had at once.
    #[cfg(feature = "steps")]
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        let can_open = state.slots < self.limits.connections && state.outage.is_none();
        !state.idle.is_empty() || can_open
    }

    /// When to try again to open a connection; at once while there is no outage.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.lock().outage.as_ref().map(|outage| outage.next_try)
    }

    /// A try had an answer: an outage is over.
    pub(super) fn reached(self: &Arc<Self>, slot: &mut Slot<K>) {
        let mut state = self.lock();
        state.opening -= 1;
        (slot.opening, slot.trying) = (false, false);
        if state.outage.take().is_some() {
            self.hand_slots_on(&mut state);
        }
    }

    /// A try that began at `began` failed. Says whether the request with this slot is the one that goes on trying.
    pub(super) fn failed(
        &self,
        slot: &mut Slot<K>,
        began: Instant,
        (words, at_limit): (String, bool),
    ) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let outage = state.outage.get_or_insert_with(|| Outage::since(began));
        (outage.seen, outage.words, outage.at_limit) = (now, words, at_limit);
        if outage.tried && !slot.trying {
            return false;
        }
        (outage.tried, slot.trying) = (true, true);
        outage.next_try = now + outage.pause;
        outage.pause = PAUSES.1.min(outage.pause * 2);
        true
    }

    /// Opens no connection for a while.
    pub(super) fn rest(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        let outage = state.outage.get_or_insert_with(|| Outage::since(now));
        outage.next_try = now + REST;
    }

    /// Whether the last try to open a connection failed because the server has no room for another.
    pub(super) fn is_at_limit(&self) -> bool {
        let state = self.lock();
        state.outage.as_ref().is_some_and(|outage| outage.at_limit)
    }

    /// Why the last try to open a connection failed, if it did.
    pub(super) fn outage(&self) -> Option<String> {
        let state = self.lock();
        state.outage.as_ref().map(|outage| outage.words.clone())
    }

    /// Those that were used last before `at` are asked for a sign of life from now on.
    pub(super) fn doubt(&self, at: Instant) {
        self.lock().doubted = Some(at);
    }

    /// Whether a connection that was used then is doubted.
    pub(super) fn is_doubted(&self, used: Instant) -> bool {
        self.lock().doubted.is_some_and(|at| used <= at)
    }

    /// Takes those that were used last before `used_before` out of the pool.
    pub(super) fn take_idle(self: &Arc<Self>, used_before: Instant) -> Vec<K::Connection> {
        let mut state = self.lock();
        let taken = state.idle.extract_if(.., |idle| idle.used <= used_before);
        let taken: Vec<K::Connection> = taken.map(|idle| idle.connection).collect();
        state.slots -= u32::try_from(taken.len()).unwrap_or(u32::MAX);
        self.hand_slots_on(&mut state);
        taken
    }

    /// Gives a connection to the next who waits.
    pub(super) fn give_back(self: &Arc<Self>, held: Held<K>) {
        let Held {
            mut connection,
            used,
            mut slot,
        } = held;
        let mut state = self.lock();
        slot.queue = None; // it stays counted
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.give(Held::new(connection, used, self)) {
                Ok(()) => return,
                Err(mut held) => {
                    held.slot.queue = None;
                    connection = held.connection;
                }
            }
        }
        state.idle.push(Idle { connection, used });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes what is idle, ends all waiting, and lends nothing any more; says how many connections there still are, and
    /// waits for the next change of that.
    pub(super) fn close(&self) -> (Vec<K::Connection>, u32, Notified<'_>) {
        let changed = self.changed.notified();
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        let idle = std::mem::take(&mut state.idle);
        state.slots -= u32::try_from(idle.len()).unwrap_or(u32::MAX);
        let idle = idle.into_iter().map(|idle| idle.connection).collect();
        (idle, state.slots, changed)
    }

    /// How many connections there are, and how many of them are idle.
    pub(super) fn size(&self) -> (u32, u32) {
        let state = self.lock();
        let idle = u32::try_from(state.idle.len()).unwrap_or(u32::MAX);
        (state.slots - state.opening, idle)
    }
}

impl<K: Connector> State<K> {
    fn enqueue<T>(
        &mut self,
        waiting: impl FnOnce(oneshot::Sender<T>) -> Waiting<K>,
    ) -> oneshot::Receiver<T> {
        // Those at the front came first, so they gave up first.
        while self.waiting.front().is_some_and(Waiting::has_gone) {
            self.waiting.pop_front();
        }
        let (sender, receiver) = oneshot::channel();
        if !self.closed {
            self.waiting.push_back(waiting(sender));
        }
        receiver
    }

    /// Takes the first request from that end that has no right to open a connection out of its place.
    fn take_without(&mut self, end: End) -> Option<(usize, oneshot::Sender<Turn<K>>)> {
        let has_none =
            |waiting: &Waiting<K>| matches!(waiting, Waiting::Turn(sender) if !sender.is_closed());
        let place = match end {
            End::Front => self.waiting.iter().position(has_none),
            End::Back => self.waiting.iter().rposition(has_none),
        }?;
        match self.waiting.remove(place) {
            Some(Waiting::Turn(sender)) => Some((place, sender)),
            Some(Waiting::Other(_)) | None => None,
        }
    }
}

impl<K: Connector> Held<K> {
    /// Of a connection whose slot is counted already.
    fn new(connection: K::Connection, used: Instant, queue: &Arc<Queue<K>>) -> Self {
        let slot = Slot {
            queue: Some(queue.clone()),
            opening: false,
            trying: false,
        };
        Self {
            connection,
            used,
            slot,
        }
    }

    /// Drops the connection, so that another can be opened in its place.
    pub(super) fn replace(mut self) -> Slot<K> {
        drop(self.connection);
        if let Some(queue) = &self.slot.queue {
            queue.lock().opening += 1;
            self.slot.opening = true;
        }
        self.slot
    }
}

impl<K: Connector> Slot<K> {
    pub(super) fn queue(&self) -> Option<&Arc<Queue<K>>> {
        self.queue.as_ref()
    }

    fn free(&self, state: &mut State<K>) {
        state.slots -= 1;
        state.opening -= u32::from(self.opening);
        if self.trying
            && let Some(outage) = &mut state.outage
        {
            outage.tried = false;
        }
    }
}

impl<K: Connector> Drop for Slot<K> {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else {
            return;
        };
        let mut state = queue.lock();
        self.free(&mut state);
        queue.hand_slots_on(&mut state);
        drop(state);
        queue.changed.notify_waiters();
    }
}

pub(super) fn closed() -> Error {
    Error::DatabaseUnavailable("its connections are closed".into())
}
