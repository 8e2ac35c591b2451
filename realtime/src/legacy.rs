//! Front-ends that were written for other servers connect unchanged: the same sessions under other names.
//!
//! | module | front-ends |
//! |---|---|
//! | [`plain`] | a plain `new WebSocket("ws://…/ws/chat?token=…")` |
//! | [`namespaces`] | Socket.IO in the namespaces `/messaging`, `/realtime` and `/notifications` |
//! | [`auto_join`] | neither of them joins conversations: their sessions do it by themselves |
//! | [`told`] | neither of them tells what it received: their sessions keep it |
//!
//! `PROTOCOL.md` describes them under "Older front-ends". Each is a [`Dialect`](crate::door::Dialect), which the doors hand to
//! the loop of a connection; nothing below the doors knows of them.
//!
//! # Deleting it
//!
//! Once no such front-end connects any more, delete: this folder; `Dialect`, `Outcome::event`, `Told` and what uses them in `door.rs`;
//! `Credentials::Address`, `token_in` and the calls of `plain` in `native.rs` and in the router's `http/socket.rs`; the dialect
//! in `socket_io/chat.rs`, whose only namespace is the API's then; `ClientEvent::named`; the section of `PROTOCOL.md`; and the
//! tests `doors/plain.rs` and `socket.io/front-ends.test.js`. The presence of the members of small conversations
//! ([`presence::members`](crate::presence::members)) is a wish of the same front-ends, but part of the protocol.

pub(crate) mod auto_join;
pub(crate) mod namespaces;
pub(crate) mod plain;
pub(crate) mod told;
