//! Namespaces over Engine.IO: which clients are in which, and where packets go.
//!
//! The server stands on `engineioxide`, which does transports, upgrades and heartbeats. It takes the place of `socketioxide`,
//! the Socket.IO layer for it: that one runs each event in a task of its own, so that a client's commands would overtake each
//! other, and cannot give `data` with a refusal.
//!
//! A connection is in no namespace at first; one that stays in none for [`Settings::connect_timeout`] is closed. The state of a
//! connection is dropped when it ends, for whatever reason.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use backscroll_shard::tasks::TaskGroup;
use bytes::Bytes;
use engineioxide::handler::EngineIoHandler;
use engineioxide::socket::Sid;
use engineioxide::{DisconnectReason, Str, TransportType};
use tokio_util::sync::CancellationToken;

use super::application::{
    Application, Connection, EngineSocket, IncomingEvent, Inside, Line, Malformed, Partial,
};
use super::idle::IdleConnections;
use super::packet::{self, Kind, Packet};
use super::settings::Settings;

/// Most binary frames with one packet.
const ATTACHMENTS_MAX: usize = 16;

/// The server behind one path.
pub struct Server<A: Application> {
    application: Arc<A>,
    idle: Arc<IdleConnections<Connection<A>>>,
    /// Connections that began with long polling.
    polling: Mutex<HashMap<Sid, Weak<EngineSocket<A>>>>,
}

impl<A: Application> fmt::Debug for Server<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl<A: Application> Server<A> {
    /// Starts a server, which closes connections in no namespace until `closing`.
    pub fn start(
        application: Arc<A>,
        settings: &Settings,
        tasks: &TaskGroup,
        closing: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            application,
            idle: IdleConnections::start(settings.connect_timeout, tasks, closing),
            polling: Mutex::default(),
        })
    }

    fn polling(&self) -> MutexGuard<'_, HashMap<Sid, Weak<EngineSocket<A>>>> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a connection whose client gave its upgrade to WebSocket up half-way: Engine.IO would wait for ever.
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
            return self.malformed(engine, Malformed::Form); // binary frames were due
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
                let participant = engine.data.participant(packet.namespace);
                // A client that is no longer in the namespace may not know that yet.
                let arguments = packet::arguments(packet.data);
                if let (Some(participant), Some(arguments)) = (participant, arguments) {
                    let event = IncomingEvent {
                        ack: packet.ack,
                        arguments,
                        attachments,
                    };
                    self.application.event(&participant, event);
                }
            }
            Kind::Ack => {} // the server asks for no answers
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
        let mut inside = state.inside.iter();
        if inside.any(|inside| inside.namespace == namespace) || state.over {
            return;
        }
        if state.entries == 0 {
            drop(state);
            return engine.close(DisconnectReason::PacketParsingError);
        }
        state.entries -= 1;
        let line = Line {
            idle: Arc::clone(&self.idle),
            engine: Arc::clone(engine),
            namespace,
            entry: state.entries,
        };
        state.inside.push(Inside {
            namespace,
            entry: line.entry,
            participant: self.application.enter(line, packet.data),
        });
    }

    fn leave(&self, engine: &Arc<EngineSocket<A>>, namespace: &str) {
        let mut state = engine.data.state();
        let mut inside = state.inside.iter();
        let Some(position) = inside.position(|inside| inside.namespace == namespace) else {
            return;
        };
        let Inside { participant, .. } = state.inside.swap_remove(position);
        let last = state.inside.is_empty();
        drop(state);
        self.application.left(&participant);
        if last {
            self.idle.add(engine);
        }
    }

    fn malformed(&self, engine: &EngineSocket<A>, why: Malformed) {
        let participants: Vec<A::Participant> = {
            let state = engine.data.state();
            let inside = state.inside.iter();
            inside.map(|inside| inside.participant.clone()).collect()
        };
        let mut ended = false;
        for participant in &participants {
            ended |= self.application.malformed(participant, why);
        }
        if !ended {
            engine.close(DisconnectReason::PacketParsingError);
        }
    }
}

impl<A: Application> EngineIoHandler for Server<A> {
    type Data = Connection<A>;

    fn on_connect(self: Arc<Self>, socket: Arc<EngineSocket<A>>) {
        socket.data.state().permit = self.application.permit(&socket.req_parts);
        self.idle.add(&socket);
        if socket.transport_type() == TransportType::Polling {
            self.polling().insert(socket.id, Arc::downgrade(&socket));
        }
    }

    fn on_disconnect(&self, socket: Arc<EngineSocket<A>>, _reason: DisconnectReason) {
        self.polling().remove(&socket.id);
        let mut state = socket.data.state();
        state.over = true;
        state.partial = None;
        let permit = state.permit.take();
        let inside = std::mem::take(&mut state.inside);
        drop(state);
        for Inside { participant, .. } in inside {
            self.application.left(&participant);
        }
        drop(permit);
    }

    fn on_message(self: &Arc<Self>, message: Str, socket: Arc<EngineSocket<A>>) {
        self.received(&socket, &message);
    }

    fn on_binary(self: &Arc<Self>, data: Bytes, socket: Arc<EngineSocket<A>>) {
        self.received_binary(&socket, &data);
    }
}
