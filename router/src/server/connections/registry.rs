//! Which connections are open, and which of them may give way to others: those on which nothing happens.
//!
//! When all places are taken, a new connection takes the place of one that is idle: of the address that has most idle ones, the
//! one that has been idle longest, and before all others one that has sent no request yet. So one client cannot keep others out
//! with connections on which it says nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::http::unread::ConnectionAnswers;

/// The open connections.
#[derive(Debug)]
pub(super) struct Registry {
    started: Instant,
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Open>>>,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    /// The client's address.
    address: SocketAddr,
    /// Its answers.
    pub(super) answers: Arc<ConnectionAnswers>,
    /// Cancelled when it is to give way.
    pub(super) gives_way: CancellationToken,
    requests: AtomicU32,
    has_asked: AtomicBool,
    /// Since when no request is in flight, in milliseconds of the registry.
    idle_since: AtomicU64,
}

impl Open {
    /// Whether it has sent a request.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
            && self.answers.progress().is_none()
            && !self.gives_way.is_cancelled()
    }
}

/// A connection in the registry until this is dropped.
#[derive(Debug)]
pub(super) struct Registered {
    registry: Arc<Registry>,
    number: u64,
    pub(super) connection: Arc<Open>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.number);
    }
}

/// A request in flight until this is dropped.
pub(super) struct InFlight {
    registry: Arc<Registry>,
    connection: Arc<Open>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = self.registry.now();
        self.connection.idle_since.store(now, Ordering::Relaxed);
        self.connection.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registry {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds a connection.
    pub(super) fn add(
        self: &Arc<Self>,
        address: SocketAddr,
        answers: Arc<ConnectionAnswers>,
    ) -> Registered {
        let connection = Arc::new(Open {
            address,
            answers,
            gives_way: CancellationToken::new(),
            requests: AtomicU32::new(0),
            has_asked: AtomicBool::new(false),
            idle_since: AtomicU64::new(self.now()),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(&connection));
        Registered {
            registry: Arc::clone(self),
            number,
            connection,
        }
    }

    /// A request on a connection begins.
    pub(super) fn begin(self: &Arc<Self>, connection: &Arc<Open>) -> InFlight {
        connection.has_asked.store(true, Ordering::Relaxed);
        connection.requests.fetch_add(1, Ordering::Relaxed);
        InFlight {
            registry: Arc::clone(self),
            connection: Arc::clone(connection),
        }
    }

    /// How many connections an address has.
    pub(super) fn count_of(&self, address: IpAddr) -> usize {
        let open = self.lock();
        let its = open.values().filter(|open| open.address.ip() == address);
        its.count()
    }

    /// Makes an idle connection give way; of `address`, if one is given. Says whether there was one.
    pub(super) fn make_room(&self, address: Option<IpAddr>) -> bool {
        let open = self.lock();
        let mut idle: HashMap<IpAddr, Vec<&Arc<Open>>> = HashMap::new();
        for connection in open.values() {
            let its = connection.address.ip();
            if address.is_none_or(|address| address == its) && connection.is_idle() {
                idle.entry(its).or_default().push(connection);
            }
        }
        let most = idle.into_values().max_by_key(Vec::len).unwrap_or_default();
        let longest = most.into_iter().min_by_key(|connection| {
            let since = connection.idle_since.load(Ordering::Relaxed);
            (connection.has_asked(), since)
        });
        longest
            .inspect(|connection| connection.gives_way.cancel())
            .is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::settings::ServerSettings;
    use crate::http::unread::UnreadAnswers;

    #[test]
    fn the_longest_idle_connection_of_the_fullest_address_gives_way() {
        let answers = UnreadAnswers::new(&ServerSettings::default());
        let registry = Registry::new();
        let add = |host: u8, port: u16| {
            let address = SocketAddr::from(([10, 0, 0, host], port));
            registry.add(address, answers.of_connection())
        };
        let many: Vec<Registered> = (1..4).map(|port| add(1, port)).collect();
        let one = add(2, 1);
        let gone = |it: &Registered| it.connection.gives_way.is_cancelled();
        let busy = registry.begin(&many[0].connection);
        drop(registry.begin(&many[1].connection));
        many[1].connection.idle_since.store(0, Ordering::Relaxed);
        assert!(registry.make_room(None));
        assert!(gone(&many[2]), "it has said nothing at all");
        assert!(registry.make_room(Some(IpAddr::from([10, 0, 0, 1]))));
        assert!(gone(&many[1]) && !gone(&many[0]) && !gone(&one));
        assert!(registry.make_room(None) && gone(&one));
        assert!(!registry.make_room(None), "one that is asked stays");
        drop(busy);
        assert!(registry.make_room(None) && gone(&many[0]));
        assert_eq!(registry.count_of(IpAddr::from([10, 0, 0, 1])), 3);
        drop(many);
        assert_eq!(registry.count_of(IpAddr::from([10, 0, 0, 1])), 0);
    }
}
