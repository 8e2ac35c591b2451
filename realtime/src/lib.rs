//! Real-time delivery: what was committed reaches those who are connected.
//!
//! | module | what it holds |
//! |---|---|
//! | [`push`] | topics, and what is told on them |
//! | [`bus`] | the seam between those who publish and those who listen, and a listener's bounded queue |
//! | [`in_process`] | the bus of a single node |
//! | [`publisher`] | listens to the store's commits and publishes them |
//! | [`settings`] | the bounds |
//!
//! A push is a hint, the log is the truth (INV-PUSH): any push may be lost, and nothing waits for one to arrive. Who
//! misses one sees it by the next `seq` or `rev`, or is told that its queue was full, and reads the log.

pub mod bus;
pub mod in_process;
pub mod publisher;
pub mod push;
pub mod settings;
