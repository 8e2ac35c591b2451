//! The behaviour of the buses, and what Redis's do when Redis is gone, slow or stuck.
//!
//! What every bus does is tested on each. Tests share nothing: each has a prefix of its own in the Redis that `make test`
//! started, and who stops Redis has one of their own. So they run side by side.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;
mod bus;
mod faults;
mod refusals;
mod roster;
mod windows;
