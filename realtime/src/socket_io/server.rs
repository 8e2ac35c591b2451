//! Namespaces over Engine.IO: who is in which, and whose packets go where.
//!
//! It stands on `engineioxide`, which does transports, upgrades and heartbeats, in place of the Socket.IO layer that is
//! offered with it: that one runs every event in a task of its own, so that a client's commands would overtake each
//! other, and can give no `data` with a refusal. It knows nothing of sessions: an [`Application`] says who may enter and
//! what happens to events, so that the protocol's own test suite runs over the same code.
//!
//! A connection is in no namespace at first; one that stays in none for [`Settings::connect_timeout`] is closed. What is
//! kept for a connection is dropped when it ends, whatever ended it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use bytes::Bytes;
use engineioxide::config::EngineIoConfig;
use engineioxide::handler::EngineIoHandler;
use engineioxide::socket::Sid;
use engineioxide::{DisconnectReason, Socket, Str, TransportType};
use serde_json::value::RawValue;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::packet::{self, Kind, Packet};

/// How long a packet may wait for room before the client counts as one that does not read.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most packets that Engine.IO holds for one connection; the rest waits where it is counted in bytes.
const BUFFERED_PACKETS: usize = 16;
/// Bytes of the read buffer; a longer frame gets a longer one while it is read.
const READ_BUFFER: usize = 2048;
/// How often a connection may enter a namespace, before it has to connect anew.
const ENTRIES_MAX: u8 = 16;
/// Most binary frames with one packet.
const ATTACHMENTS_MAX: usize = 16;
/// Between two looks for room.
const ROOM_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// What Engine.IO is told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between two pings of the server.
    pub ping_interval: Duration,
    /// How long a client may take to answer one.
    pub ping_timeout: Duration,
    /// Longest body of a long-polling request, and longest frame, in bytes.
    pub max_payload: usize,
    /// How long a connection may be in no namespace.
    pub connect_timeout: Duration,
    /// Whether long polling is served.
    pub long_polling: bool,
}

impl Settings {
    /// Engine.IO's configuration.
    #[must_use]
    pub fn engine(&self) -> EngineIoConfig {
        let builder = EngineIoConfig::builder()
            .req_path(super::PATH)
            .ping_interval(self.ping_interval)
            .ping_timeout(self.ping_timeout)
            .upgrade_timeout(Duration::from_secs(10))
            .max_buffer_size(BUFFERED_PACKETS)
            .max_payload(self.max_payload as u64)
            .ws_read_buffer_size(READ_BUFFER)
            .ws_max_message_size(self.max_payload)
            .ws_max_frame_size(self.max_payload);
        if self.long_polling {
            builder.transports([TransportType::Polling, TransportType::Websocket])
        } else {
            builder.transports([TransportType::Websocket])
        }
        .build()
    }
}

/// An event as it came.
#[derive(Debug)]
pub struct Event<'a> {
    /// The number under which an answer is awaited.
    pub ack: Option<u64>,
    /// Its name, as a JSON string, and its data.
    pub arguments: Vec<&'a RawValue>,
    /// The binary frames that belong to it.
    pub attachments: Vec<Bytes>,
}

/// What is behind the namespaces.
pub trait Application: Send + Sync + Sized + 'static {
    /// One that has entered a namespace, or asks to.
    type Member: Clone + Send + Sync + 'static;
    /// What a connection holds as long as it lasts.
    type Place: Send + 'static;

    /// The namespaces there are.
    fn namespaces(&self) -> &[&'static str];
    /// Takes what the connection holds out of its first request.
    fn place(&self, request: &Parts) -> Option<Self::Place>;
    /// Somebody asks to enter; `auth` is JSON text, or nothing. Answered by [`Line::accept`] or [`Line::refuse`].
    fn enter(self: &Arc<Self>, line: Line<Self>, auth: &str) -> Self::Member;
    /// An event came.
    fn event(&self, member: &Self::Member, event: Event<'_>);
    /// The member left, or its connection is gone.
    fn left(&self, member: &Self::Member);
    /// A packet of the member's connection was malformed; whether the application ends the connection itself.
    fn malformed(&self, member: &Self::Member, why: Malformed) -> bool;
    /// Longest packet, in bytes.
    fn max_packet(&self) -> usize;
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is not of the protocol's form.
    Form,
    /// It is too long.
    Length,
}

/// What is kept for a connection.
pub struct Connection<A: Application> {
    state: Mutex<State<A>>,
}

impl<A: Application> Default for Connection<A> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                members: Vec::new(),
                place: None,
                partial: None,
                entries: ENTRIES_MAX,
                over: false,
            }),
        }
    }
}

struct State<A: Application> {
    members: Vec<Inside<A>>,
    place: Option<A::Place>,
    partial: Option<Box<Partial>>,
    entries: u8,
    over: bool,
}

/// A namespace that a connection is in, or asks to enter.
struct Inside<A: Application> {
    namespace: &'static str,
    /// Which of the connection's entries it was.
    entry: u8,
    member: A::Member,
}

/// An event that waits for its binary frames.
struct Partial {
    text: String,
    missing: usize,
    attachments: Vec<Bytes>,
}

impl<A: Application> Connection<A> {
    fn state(&self) -> MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member(&self, namespace: &str) -> Option<A::Member> {
        let state = self.state();
        let mut members = state.members.iter();
        let found = members.find(|inside| inside.namespace == namespace);
        found.map(|inside| inside.member.clone())
    }
}

type EngineSocket<A> = Socket<Connection<A>>;

/// Why a packet could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The connection is gone.
    Gone,
    /// There was no room for too long.
    Stalled,
}

/// The way to one member.
pub struct Line<A: Application> {
    server: Arc<Server<A>>,
    engine: Arc<EngineSocket<A>>,
    namespace: &'static str,
    entry: u8,
}

impl<A: Application> Line<A> {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &'static str {
        self.namespace
    }

    /// Whether the client has to ask for what waits for it.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.engine.transport_type() == TransportType::Polling
    }

    /// Lets the client in.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn accept(&self, sid: &str) -> Result<(), Unsent> {
        let text = packet::connected(self.namespace, sid);
        self.send(text.into(), WRITE_TIMEOUT).await
    }

    /// Does not let the client in.
    pub async fn refuse(&self, message: &str, data: &str) {
        self.leave(); // first, as the client may ask again as soon as it hears
        let text = packet::refused(self.namespace, message, Some(data));
        let _ = self.send(text.into(), WRITE_TIMEOUT).await;
    }

    /// Sends a packet, once there is room; waits for at most `patience`.
    ///
    /// # Errors
    /// When it was not sent.
    pub async fn send(&self, mut packet: Str, patience: Duration) -> Result<(), Unsent> {
        let (mut wait, longest) = ROOM_WAIT;
        let begun = Instant::now();
        loop {
            packet = match offer(&self.engine, packet) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(Unsent::Gone),
                Err(TrySendError::Full(packet)) => packet,
            };
            if begun.elapsed() >= patience {
                return Err(Unsent::Stalled);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// Sends a packet with binary frames, or nothing when there is no room for it.
    pub fn send_binary(&self, packet: String, attachments: Vec<Bytes>) {
        let packet = packet::with_attachments(packet, attachments.len());
        if let Ok(permit) = self.engine.reserve() {
            permit.emit_many(packet.into(), attachments.into());
        }
    }

    /// Takes the member out of the namespace.
    pub fn leave(&self) {
        let mut state = self.engine.data.state();
        let before = state.members.len();
        state.members.retain(|inside| inside.entry != self.entry);
        let last = state.members.is_empty() && before > 0;
        drop(state);
        if last {
            self.server.watch(&self.engine);
        }
    }

    /// Ends the connection, after what was sent.
    pub fn close(&self) {
        self.engine.close(DisconnectReason::TransportClose);
    }

    /// Ends the connection, unless it is in another namespace.
    pub fn close_when_alone(&self) {
        let alone = self.engine.data.state().members.is_empty();
        if alone {
            self.close();
        }
    }
}

/// Sends `packet` where room is left for a ping beside it: without, Engine.IO takes the client for dead.
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

/// The server behind one path.
pub struct Server<A: Application> {
    application: Arc<A>,
    connect_timeout: Duration,
    /// Connections that are, or were, in no namespace, by when they are looked at.
    watched: Mutex<VecDeque<(Instant, Weak<EngineSocket<A>>)>>,
    /// Connections that began with long polling.
    polling: Mutex<HashMap<Sid, Weak<EngineSocket<A>>>>,
}

impl<A: Application> fmt::Debug for Server<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl<A: Application> Server<A> {
    /// Starts a server; it watches over its connections until `closing`.
    pub fn start(
        application: Arc<A>,
        settings: &Settings,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Arc<Self> {
        let server = Arc::new(Self {
            application,
            connect_timeout: settings.connect_timeout,
            watched: Mutex::default(),
            polling: Mutex::default(),
        });
        let sweeping = Arc::downgrade(&server);
        let every = (settings.connect_timeout / 4).min(Duration::from_secs(1));
        tasks.spawn(async move {
            let pause = || closing.run_until_cancelled(tokio::time::sleep(every));
            while pause().await.is_some() {
                let Some(server) = sweeping.upgrade() else {
                    return;
                };
                server.sweep();
            }
        });
        server
    }

    fn watched(&self) -> MutexGuard<'_, VecDeque<(Instant, Weak<EngineSocket<A>>)>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a connection once it may have been in no namespace for too long.
    fn watch(&self, engine: &Arc<EngineSocket<A>>) {
        let due = Instant::now() + self.connect_timeout;
        self.watched().push_back((due, Arc::downgrade(engine)));
    }

    fn sweep(&self) {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut watched = self.watched();
            let n = watched.partition_point(|(due, _)| *due <= now);
            watched.drain(..n).collect()
        };
        for engine in due.into_iter().filter_map(|(_, engine)| engine.upgrade()) {
            let alone = engine.data.state().members.is_empty();
            if alone {
                engine.close(DisconnectReason::TransportClose);
            }
        }
    }

    fn polling(&self) -> MutexGuard<'_, HashMap<Sid, Weak<EngineSocket<A>>>> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a connection whose upgrade to WebSocket was given up half-way: Engine.IO would wait for it for ever.
    pub fn upgrade_ended(&self, sid: Sid) {
        let engine = self.polling().get(&sid).and_then(Weak::upgrade);
        if let Some(engine) = engine
            && engine.transport_type() == TransportType::Polling
        {
            engine.close(DisconnectReason::TransportError);
        }
    }

    fn received(self: &Arc<Self>, engine: &Arc<EngineSocket<A>>, text: &str) {
        if text.len() > self.application.max_packet() {
            return self.malformed(engine, Malformed::Length);
        }
        if engine.data.state().partial.is_some() {
            return self.malformed(engine, Malformed::Form); // binary frames were to come
        }
        let Some(packet) = Packet::parse(text) else {
            return self.malformed(engine, Malformed::Form);
        };
        if packet.attachments > ATTACHMENTS_MAX {
            return self.malformed(engine, Malformed::Form);
        }
        if packet.attachments > 0 {
            engine.data.state().partial = Some(Box::new(Partial {
                text: text.to_owned(),
                missing: packet.attachments,
                attachments: Vec::new(),
            }));
            return;
        }
        self.take(engine, &packet, Vec::new());
    }

    fn received_binary(self: &Arc<Self>, engine: &Arc<EngineSocket<A>>, data: &Bytes) {
        let mut state = engine.data.state();
        let Some(mut partial) = state.partial.take() else {
            drop(state);
            return self.malformed(engine, Malformed::Form);
        };
        let held: usize = partial.attachments.iter().map(Bytes::len).sum();
        if partial.text.len() + held + data.len() > self.application.max_packet() {
            drop(state);
            return self.malformed(engine, Malformed::Length);
        }
        // Copied, so that a few bytes do not hold a whole read buffer.
        partial.attachments.push(Bytes::copy_from_slice(data));
        partial.missing -= 1;
        if partial.missing > 0 {
            state.partial = Some(partial);
            return;
        }
        drop(state);
        if let Some(packet) = Packet::parse(&partial.text) {
            self.take(engine, &packet, partial.attachments);
        }
    }

    fn take(
        self: &Arc<Self>,
        engine: &Arc<EngineSocket<A>>,
        packet: &Packet<'_>,
        attachments: Vec<Bytes>,
    ) {
        match packet.kind {
            Kind::Connect => self.enter(engine, packet),
            Kind::Disconnect => self.leave(engine, packet.namespace),
            Kind::Event => {
                let member = engine.data.member(packet.namespace);
                // One that was just sent out may not know yet.
                if let (Some(member), Some(arguments)) = (member, packet::arguments(packet.data)) {
                    let event = Event {
                        ack: packet.ack,
                        arguments,
                        attachments,
                    };
                    self.application.event(&member, event);
                }
            }
            Kind::Ack => {} // no answer is ever asked for
        }
    }

    fn enter(self: &Arc<Self>, engine: &Arc<EngineSocket<A>>, packet: &Packet<'_>) {
        let known = self.application.namespaces().iter();
        let Some(namespace) = known.copied().find(|name| *name == packet.namespace) else {
            let text = packet::refused(packet.namespace, "Invalid namespace", None);
            let _ = engine.emit(text);
            return;
        };
        let mut state = engine.data.state();
        let mut members = state.members.iter();
        if members.any(|inside| inside.namespace == namespace) || state.over {
            return;
        }
        if state.entries == 0 {
            drop(state);
            return engine.close(DisconnectReason::PacketParsingError);
        }
        state.entries -= 1;
        let line = Line {
            server: Arc::clone(self),
            engine: Arc::clone(engine),
            namespace,
            entry: state.entries,
        };
        state.members.push(Inside {
            namespace,
            entry: line.entry,
            member: self.application.enter(line, packet.data),
        });
    }

    fn leave(&self, engine: &Arc<EngineSocket<A>>, namespace: &str) {
        let mut state = engine.data.state();
        let place = state
            .members
            .iter()
            .position(|inside| inside.namespace == namespace);
        let Some(place) = place else {
            return;
        };
        let Inside { member, .. } = state.members.swap_remove(place);
        let last = state.members.is_empty();
        drop(state);
        self.application.left(&member);
        if last {
            self.watch(engine);
        }
    }

    fn malformed(&self, engine: &EngineSocket<A>, why: Malformed) {
        let members: Vec<A::Member> = {
            let state = engine.data.state();
            let members = state.members.iter();
            members.map(|inside| inside.member.clone()).collect()
        };
        let ends = |member| self.application.malformed(member, why);
        if members.iter().filter(|member| ends(member)).count() == 0 {
            engine.close(DisconnectReason::PacketParsingError);
        }
    }
}

impl<A: Application> EngineIoHandler for Server<A> {
    type Data = Connection<A>;

    fn on_connect(self: Arc<Self>, socket: Arc<EngineSocket<A>>) {
        socket.data.state().place = self.application.place(&socket.req_parts);
        self.watch(&socket);
        if socket.transport_type() == TransportType::Polling {
            self.polling().insert(socket.id, Arc::downgrade(&socket));
        }
    }

    fn on_disconnect(&self, socket: Arc<EngineSocket<A>>, _reason: DisconnectReason) {
        self.polling().remove(&socket.id);
        let mut state = socket.data.state();
        state.over = true;
        state.partial = None;
        let place = state.place.take();
        let members = std::mem::take(&mut state.members);
        drop(state);
        for Inside { member, .. } in members {
            self.application.left(&member);
        }
        drop(place);
    }

    fn on_message(self: &Arc<Self>, message: Str, socket: Arc<EngineSocket<A>>) {
        self.received(&socket, &message);
    }

    fn on_binary(self: &Arc<Self>, data: Bytes, socket: Arc<EngineSocket<A>>) {
        self.received_binary(&socket, &data);
    }
}
