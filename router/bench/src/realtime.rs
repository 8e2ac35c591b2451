//! Many clients of a chat server's sockets, at little cost: one thread drives them all, or some thousands.
//!
//! | module | what it holds |
//! |---|---|
//! | [`door`] | the frames of the two doors, native and Socket.IO |
//! | [`socket`] | a connection through one of them |
//! | [`crowd`] | who talks where, made on Backscroll and on the baseline |
//! | [`board`] | what was sent, acknowledged and delivered, and when |
//! | [`client`], [`fleet`] | clients that join, speak and count; many of them in a phase |
//! | [`follower`] | clients that come back after their connection broke, and resume |
//! | [`swarm`] | these, in processes of their own |
//! | [`runs`] | rounds of several sides in turns, and how they are told |
//! | [`sides`] | what is compared: both doors of Backscroll, and the baseline |

pub mod board;
pub mod client;
pub mod crowd;
pub mod door;
pub mod fleet;
pub mod follower;
pub mod runs;
pub mod sides;
pub mod socket;
pub mod swarm;
