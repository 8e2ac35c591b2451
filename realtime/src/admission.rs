//! Admits connections: before the handshake, when refusing one still costs nothing.
//!
//! Upholds INV-BOUND: at most `realtime.max_sessions` connections, `realtime.sessions_per_ip` from one address, and
//! `realtime.connects_per_second` new ones a second. A draining node admits none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::session::seconds;
use crate::settings::RealtimeSettings;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The node is draining.
    Draining,
    /// The node has too many connections, or too many new ones this second.
    Full,
    /// The address has too many connections.
    Address,
}

/// Admits connections to a node.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    max_per_address: usize,
    max_per_second: usize,
    connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// The second in which the latest connection was admitted, and how many were in it.
    this_second: (AtomicI64, AtomicUsize),
    draining: AtomicBool,
}

/// A connection that was admitted: it counts until this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            let mut addresses = self.admission.addresses();
            if let Some(count) = addresses.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&address);
                }
            }
        }
    }
}

impl Admission {
    /// Admits connections within the bounds of `settings`.
    pub(crate) fn new(settings: &RealtimeSettings) -> Arc<Self> {
        Arc::new(Self {
            max: settings.max_sessions,
            max_per_address: settings.sessions_per_ip,
            max_per_second: settings.connects_per_second as usize,
            connections: AtomicUsize::new(0),
            addresses: Mutex::default(),
            this_second: (AtomicI64::new(0), AtomicUsize::new(0)),
            draining: AtomicBool::new(false),
        })
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are.
    pub(crate) fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Admits no more connections.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the node is draining.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Admits a connection from `address`; without an address, its bound does not count.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: Option<IpAddr>,
    ) -> Result<ConnectionPermit, Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        if !self.admit_this_second() {
            return Err(Refused::Full);
        }
        if self.connections.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        let mut permit = ConnectionPermit {
            admission: Arc::clone(self),
            address: None,
        };
        let Some(address) = address.filter(|_| self.max_per_address > 0) else {
            return Ok(permit);
        };
        {
            let mut addresses = self.addresses();
            let count = addresses.entry(address).or_default();
            if *count >= self.max_per_address {
                return Err(Refused::Address);
            }
            *count += 1;
        }
        permit.address = Some(address);
        Ok(permit)
    }

    fn admit_this_second(&self) -> bool {
        if self.max_per_second == 0 {
            return true;
        }
        let now = i64::from(seconds());
        let (second, count) = &self.this_second;
        if second.swap(now, Ordering::Relaxed) != now {
            count.store(0, Ordering::Relaxed);
        }
        count.fetch_add(1, Ordering::Relaxed) < self.max_per_second
    }
}
