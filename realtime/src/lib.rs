//! Real-time delivery: the changes that the store commits reach the clients that are connected.
//!
//! | module | what it holds |
//! |---|---|
//! | [`push`] | topics and pushes |
//! | [`protocol`] | the client protocol: commands, events, close codes |
//! | [`client_event`] | events as clients receive them |
//! | [`bus`], [`redis`] | the seams between nodes, and what stands behind them |
//! | [`publisher`] | publishes the store's commits |
//! | [`session`], [`outbox`], `sessions` | sessions, their queues, their registry |
//! | [`hub`] | a node's topics: which sessions listen to what, and delivery to them |
//! | [`presence`] | which users are online |
//! | [`edge`], [`admission`], `resume`, `command`, `heartbeat` | the parts of the gateway |
//! | [`gateway`] | the life of a connection |
//! | `door` | the loop of a connection, the same for both doors |
//! | [`native`], [`socket_io`] | the doors: WebSocket, and Socket.IO |
//! | `legacy` | front-ends that were written for other servers |
//! | [`settings`] | the bounds |
//!
//! A push is a hint, the log is the truth (INV-PUSH): any push may be lost, and nothing waits for one to arrive. A node that
//! misses one finds out by the next `rev`, or by comparing with the log, and reads the change there.

pub mod admission;
pub mod bus;
pub mod client_event;
mod command;
mod door;
pub mod edge;
pub mod gateway;
mod heartbeat;
pub mod hub;
mod legacy;
pub mod native;
pub mod outbox;
pub mod presence;
pub mod protocol;
pub mod publisher;
pub mod push;
pub mod redis;
mod resume;
pub mod session;
mod sessions;
pub mod settings;
pub mod socket_io;
