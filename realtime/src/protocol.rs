//! The client protocol, as `PROTOCOL.md` describes it.
//!
//! [`commands`] and [`events`] are the two tables of the protocol: a command or an event is added there, and nowhere else by
//! name. The dispatcher of commands, the AsyncAPI document and the types of the TypeScript client are made from them.

pub mod close;
pub mod commands;
pub mod data;
pub mod events;

pub use self::close::{Close, Return};
pub use self::data::*;
