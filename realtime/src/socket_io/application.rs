//! The seam between Socket.IO's namespaces and the application behind them.
//!
//! [`Server`](super::server::Server) knows packets and namespaces, and nothing of sessions. An [`Application`] decides which
//! clients may enter a namespace and what an event does, so that the protocol's own test suite runs over the same code.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use bytes::Bytes;
use engineioxide::{DisconnectReason, Socket, Str, TransportType};
use serde_json::value::RawValue;
use tokio::sync::mpsc::error::TrySendError;

use super::idle::{IdleConnections, InNamespaces};
use super::packet;
use crate::door::WRITE_TIMEOUT;

/// How often a connection may enter a namespace before it has to connect anew.
const ENTRIES_MAX: u8 = 16;
/// The shortest and the longest pause between two attempts to find room for a packet.
const ROOM_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// An event of a client.
#[derive(Debug)]
pub struct IncomingEvent<'a> {
    /// The number under which the client awaits an answer.
    pub ack: Option<u64>,
    /// Its name, as a JSON string, and its data.
    pub arguments: Vec<&'a RawValue>,
    /// The binary frames that belong to it.
    pub attachments: Vec<Bytes>,
}

/// The application behind the namespaces.
pub trait Application: Send + Sync + Sized + 'static {
    /// A client in a namespace, or one that asks to enter.
    type Participant: Clone + Send + Sync + 'static;
    /// What a connection holds for as long as it lasts.
    type Permit: Send + 'static;

    /// The namespaces.
    fn namespaces(&self) -> &[&'static str];
    /// Takes the permit out of a connection's first request.
    fn permit(&self, request: &Parts) -> Option<Self::Permit>;
    /// A client asks to enter; `auth` is JSON text, or empty. Answered by [`Line::accept`] or [`Line::refuse`].
    fn enter(self: &Arc<Self>, line: Line<Self>, auth: &str) -> Self::Participant;
    /// An event arrived.
    fn event(&self, participant: &Self::Participant, event: IncomingEvent<'_>);
    /// The participant left, or its connection is gone.
    fn left(&self, participant: &Self::Participant);
    /// A packet of the participant's connection was malformed. Says whether the application ends the connection itself.
    fn malformed(&self, participant: &Self::Participant, why: Malformed) -> bool;
    /// Longest packet, in bytes.
    fn max_packet(&self) -> usize;
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It breaks the protocol.
    Form,
    /// It is too long.
    Length,
}

/// The state of a connection. It is dropped when the connection ends.
pub struct Connection<A: Application> {
    state: Mutex<State<A>>,
}

impl<A: Application> Default for Connection<A> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                inside: Vec::new(),
                permit: None,
                partial: None,
                entries: ENTRIES_MAX,
                over: false,
            }),
        }
    }
}

pub(super) struct State<A: Application> {
    /// The namespaces that the client is in, or asks to enter.
    pub(super) inside: Vec<Inside<A>>,
    pub(super) permit: Option<A::Permit>,
    /// An event that waits for its binary frames.
    pub(super) partial: Option<Box<Partial>>,
    /// How often the connection may still enter a namespace.
    pub(super) entries: u8,
    /// The connection has ended.
    pub(super) over: bool,
}

/// A namespace that a client is in, or asks to enter.
pub(super) struct Inside<A: Application> {
    pub(super) namespace: &'static str,
    /// Identifies the entry among those of its connection.
    pub(super) entry: u8,
    pub(super) participant: A::Participant,
}

/// An event whose binary frames have not all arrived.
pub(super) struct Partial {
    pub(super) text: String,
    pub(super) missing: usize,
    pub(super) attachments: Vec<Bytes>,
}

impl<A: Application> Connection<A> {
    pub(super) fn state(&self) -> MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client in a namespace.
    pub(super) fn participant(&self, namespace: &str) -> Option<A::Participant> {
        let state = self.state();
        let mut all = state.inside.iter();
        let found = all.find(|inside| inside.namespace == namespace);
        found.map(|inside| inside.participant.clone())
    }
}

impl<A: Application> InNamespaces for Connection<A> {
    fn is_idle(&self) -> bool {
        self.state().inside.is_empty()
    }
}

/// A connection of Engine.IO.
pub(super) type EngineSocket<A> = Socket<Connection<A>>;

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The connection is gone.
    Gone,
    /// The client did not read for too long.
    Stalled,
}

/// The way to a client in one namespace.
pub struct Line<A: Application> {
    pub(super) idle: Arc<IdleConnections<Connection<A>>>,
    pub(super) engine: Arc<EngineSocket<A>>,
    pub(super) namespace: &'static str,
    pub(super) entry: u8,
}

impl<A: Application> Line<A> {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &'static str {
        self.namespace
    }

    /// Whether the client polls for its packets.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.engine.transport_type() == TransportType::Polling
    }

    /// Lets the client into the namespace, under the name `sid`.
    ///
    /// # Errors
    /// Why the client cannot be notified.
    pub async fn accept(&self, sid: &str) -> Result<(), Unsent> {
        let text = packet::connected(self.namespace, sid);
        self.send(text.into(), WRITE_TIMEOUT).await
    }

    /// Refuses to let the client in.
    pub async fn refuse(&self, message: &str, data: &str) {
        self.leave(); // first, as the client may ask again as soon as it is answered
        let text = packet::refused(self.namespace, message, Some(data));
        let _ = self.send(text.into(), WRITE_TIMEOUT).await;
    }

    /// Sends a packet as soon as there is room, within `timeout`.
    ///
    /// # Errors
    /// Why it was not sent.
    pub async fn send(&self, mut packet: Str, timeout: Duration) -> Result<(), Unsent> {
        let (mut wait, longest) = ROOM_WAIT;
        let begun = Instant::now();
        loop {
            packet = match offer(&self.engine, packet) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(Unsent::Gone),
                Err(TrySendError::Full(packet)) => packet,
            };
            if begun.elapsed() >= timeout {
                return Err(Unsent::Stalled);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// Sends a packet with binary frames, or drops it when there is no room.
    pub fn send_binary(&self, packet: String, attachments: Vec<Bytes>) {
        let packet = packet::with_attachments(packet, attachments.len());
        if let Ok(permit) = self.engine.reserve() {
            permit.emit_many(packet.into(), attachments.into());
        }
    }

    /// Takes the client out of the namespace.
    pub fn leave(&self) {
        let mut state = self.engine.data.state();
        let before = state.inside.len();
        state.inside.retain(|inside| inside.entry != self.entry);
        let last = state.inside.is_empty() && before > 0;
        drop(state);
        if last {
            self.idle.add(&self.engine);
        }
    }

    /// Ends the connection, after the packets that were sent.
    pub fn close(&self) {
        self.engine.close(DisconnectReason::TransportClose);
    }

    /// Ends the connection, unless its client is in another namespace.
    pub fn close_when_idle(&self) {
        if self.engine.data.is_idle() {
            self.close();
        }
    }
}

/// Sends `packet` if that leaves room for a ping: a full buffer makes Engine.IO take the client for dead.
fn offer<A: Application>(engine: &EngineSocket<A>, packet: Str) -> Result<(), TrySendError<Str>> {
    let reserve = || engine.reserve();
    match (reserve(), reserve()) {
        (Ok(permit), Ok(_spare)) => {
            permit.emit(packet);
            Ok(())
        }
        (Err(TrySendError::Closed(())), _) | (_, Err(TrySendError::Closed(()))) => {
            Err(TrySendError::Closed(packet))
        }
        _ => Err(TrySendError::Full(packet)),
    }
}
