//! Admits connections: before the handshake, when refusing one still costs nothing.
//!
//! Upholds INV-BOUND: at most `realtime.max_sessions` connections, `realtime.sessions_per_ip` from one address, and
//! `realtime.connects_per_second` new ones a second. A draining node admits none.
//!
//! Connections whose token was checked before have the rate a second to themselves. Those that have yet to present one have half
//! as much beside it, of which one address has at most a quarter where addresses are told apart: nobody keeps others out with
//! handshakes that come to nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// What is known of the token of a client that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// It was checked.
    Checked,
    /// The client presents it later.
    Later,
}

/// The connections admitted in one second.
#[derive(Debug, Default)]
struct Second {
    number: u32,
    known: usize,
    unknown: usize,
    unknown_by_address: HashMap<IpAddr, usize>,
}

/// Admits connections to a node.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    max_per_address: usize,
    max_per_second: usize,
    connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    this_second: Mutex<Second>,
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
            this_second: Mutex::default(),
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
        token: Token,
    ) -> Result<ConnectionPermit, Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        let address = address.filter(|_| self.max_per_address > 0);
        self.admit_this_second(address, token)?;
        if self.connections.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        let mut permit = ConnectionPermit {
            admission: Arc::clone(self),
            address: None,
        };
        let Some(address) = address else {
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

    fn admit_this_second(&self, address: Option<IpAddr>, token: Token) -> Result<(), Refused> {
        if self.max_per_second == 0 {
            return Ok(());
        }
        let this = self.this_second.lock();
        let mut this = this.unwrap_or_else(PoisonError::into_inner);
        let this = &mut *this;
        let now = seconds();
        if this.number != now {
            *this = Second {
                number: now,
                ..Second::default()
            };
        }
        let unknown_max = self.max_per_second.div_ceil(2);
        match (token, address) {
            (Token::Checked, _) if this.known < self.max_per_second => this.known += 1,
            (Token::Later, None) if this.unknown < unknown_max => this.unknown += 1,
            (Token::Later, Some(address)) if this.unknown < unknown_max => {
                let of_address = this.unknown_by_address.entry(address).or_default();
                if *of_address >= unknown_max.div_ceil(4) {
                    return Err(Refused::Address);
                }
                *of_address += 1;
                this.unknown += 1;
            }
            _ => return Err(Refused::Full),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(admission: &Arc<Admission>, address: Option<IpAddr>, token: Token) -> usize {
        let tries = (0..100).filter(|_| admission.admit(address, token).is_ok());
        tries.count()
    }

    #[test]
    fn clients_without_a_token_leave_room_for_those_with_one() {
        let settings = RealtimeSettings {
            connects_per_second: 8,
            sessions_per_ip: 50,
            ..RealtimeSettings::default()
        };
        let admission = Admission::new(&settings);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        loop {
            let second = seconds();
            let counts = [
                admitted(&admission, Some(one), Token::Later),
                admitted(&admission, Some(other), Token::Later),
                admitted(&admission, None, Token::Later),
                admitted(&admission, Some(one), Token::Checked),
            ];
            if seconds() == second {
                assert_eq!(counts, [1, 1, 2, 8]);
                break;
            }
        }
    }
}
