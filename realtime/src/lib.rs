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
//! | [`metrics`] | the metrics of this crate |
//! | [`settings`] | the bounds |
//!
//! A push is a hint, the log is the truth (INV-PUSH): any push may be lost, and nothing waits for one to arrive. A node that
//! misses one finds out by the next `rev`, or by comparing with the log, and reads the change there.
//!
//! What a node believes about others, and what corrects it where the notice of a change was lost:
//!
//! | belief | changed by | corrected by, at the latest after |
//! |---|---|---|
//! | the changes that sessions have of an open conversation, or of a user's list | pushes | the audit, which compares revs with the log: `realtime.audit_interval` (10 s), 2 s while the bus is in doubt |
//! | a conversation's members, for its sessions and presence | pushes of its changes | the same audit; a session that is no member any more ends with the next read of the log |
//! | the status of a user that sessions watch | pushes | a comparison with the roster: 15 s, 5 s while in doubt, and 10 s more before a user is offline |
//! | the roster: the users of each node | each node's calls | the node's lease (`redis.lease`, 15 s); a node that finds its lease gone sets all its users again (5 s) |
//! | that the bus carries pushes | a canary of the node to itself | the silence of the canary ([`bus::SILENCE_MAX`], 6 s): `/readyz`, and audits every 2 s |
//! | the large conversations of a list (store) | each page of the list reads them | the next page; while their shard is away the entry is as last read and marked `stale` |
//! | which shard owns a range (store) | `directory.refresh_interval` (1 s) | the shard's fence, which refuses at once |
//! | the sanctions of users (store) | half of `directory.refresh_interval` (1 s) | nothing else: what is known holds while the directory is away |
//! | memberships in a write lane (store) | the conversation's `members_rev`, read under its lock | each send; a new connection, or a rev that went back, forgets all of them |
//! | which database an address leads to (store) | each new connection is asked | a look every 10 s |
//! | the keys of the issuer (router) | `auth.jwks_refresh` (5 min) | a token with an unknown key; sessions whose key was withdrawn end within a fifth of `realtime.heartbeat` |

pub mod admission;
pub mod bus;
pub mod client_event;
mod command;
pub mod custom_event;
mod door;
pub mod edge;
pub mod gateway;
pub mod handshake;
mod heartbeat;
pub mod hub;
mod legacy;
pub mod metrics;
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
