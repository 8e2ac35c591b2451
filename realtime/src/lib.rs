//! Real-time delivery: what was committed reaches those who are connected.
//!
//! | module | what it holds |
//! |---|---|
//! | [`push`] | topics, and what is told on them |
//! | [`bus`] | the seam between nodes: pushes, and the roster of who is connected where |
//! | [`redis`] | the bus and roster of several nodes |
//! | [`publisher`] | listens to the store's commits and publishes them |
//! | [`hub`] | a node's topics: who listens to what, and that all of it is told |
//! | `channel` | one topic: revs in order, what is kept for those who come back |
//! | `batch` | questions of many connections, asked together |
//! | [`session`], [`outbox`] | a connection, and what waits for it |
//! | [`gateway`], `command` | admission, sessions, commands, heartbeat, drain |
//! | [`native`] | the door for WebSocket |
//! | `opening` | conversations that a session opens by itself |
//! | [`socket_io`] | the door for Socket.IO |
//! | [`presence`] | who is online |
//! | [`protocol`] | the client protocol's types |
//! | [`settings`] | the bounds |
//!
//! A push is a hint, the log is the truth (INV-PUSH): any push may be lost, and nothing waits for one to arrive. Who
//! misses one sees it by the next `rev`, or by comparing with the log, and reads it there.

mod batch;
pub mod bus;
mod channel;
pub mod client_event;
mod command;
pub mod edge;
pub mod gateway;
pub mod hub;
pub mod native;
mod opening;
pub mod outbox;
pub mod presence;
pub mod protocol;
pub mod publisher;
pub mod push;
pub mod redis;
pub mod session;
pub mod settings;
pub mod socket_io;
