//! Fault injection on a whole deployment, with a ledger of everything that it acknowledged (INV-ACK, INV-IDEM, INV-SEQ,
//! INV-REV, INV-TIER, INV-COPY, INV-ERASE, INV-PUSH seen from outside).
//!
//! Two nodes, two MariaDB servers with two shards each, Redis and an S3 server run for some minutes. Clients write, read
//! and follow; operators import, archive, restore, collect and export. Meanwhile processes are killed and paused,
//! connections cut, delayed and half-open, clocks wrong. Every acknowledgement enters the ledger, and every answer, push
//! and export is compared with it: at once, and completely after the last fault.
//!
//! | module | contents |
//! |---|---|
//! | [`process`], [`servers`], [`deployment`] | processes that can be disturbed; all of them, with a proxy between any two |
//! | [`injector`], [`kill_matrix`] | the faults: at random, or at every state of a move |
//! | [`setup`], [`history`] | conversations made through the API; histories of years ago that are imported, and exports |
//! | [`operation`], [`transport`], [`writer`] | what users change, and how requests reach the nodes |
//! | [`reader`], [`follower`] | pages, single messages, sync; sockets with resume |
//! | [`commands`], [`operator`], [`jobs`] | operators' commands as processes, and what all jobs did |
//! | [`observed`], [`lower_bound`], [`message`], [`page`], [`conversation`], [`ledger`] | the model |
//! | [`context`] | what all tasks share: ledger, log of faults, violations |
//! | [`final_checks`], [`lists`], [`residue`] | the comparison after the last fault; lists and pins; deleted texts in objects and rows |

pub mod commands;
pub mod context;
pub mod conversation;
pub mod deployment;
pub mod final_checks;
pub mod follower;
pub mod history;
pub mod injector;
pub mod jobs;
pub mod kill_matrix;
pub mod ledger;
pub mod lists;
pub mod lower_bound;
pub mod message;
pub mod moves;
pub mod observed;
pub mod operation;
pub mod operator;
pub mod page;
pub mod process;
pub mod reader;
pub mod residue;
pub mod servers;
pub mod setup;
pub mod transport;
pub mod writer;

#[cfg(test)]
mod tests;
