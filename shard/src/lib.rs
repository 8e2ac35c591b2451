//! Backscroll's store: conversations as gapless numbered logs, spread over SQL shards by key range.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`] | newtypes for ids and counters, and the key functions |
//! | [`range`], [`map`] | half-open key ranges, and the checked map from key to shard |
//! | [`directory`] | the database that names the shards and their ranges; its cached copy |
//! | [`identity`] | which database of which deployment a database is; making a deployment |
//! | [`fence`], [`owned`] | ownership rows on every shard; the readers and transactions that are made by asking them |
//! | [`db`] | the dialect seam: one set of statements for SQLite, MySQL and MariaDB |
//! | [`clock`] | whose clock decides |
//! | [`migrate`] | schema migrations of the directory and of every shard |
//! | [`node`], `circuit` | one shard: its databases and their health |
//! | [`transaction`] | transactions that are run again after contention |
//! | [`lane`] | write lanes: group commit of sends |
//! | [`head`], [`member`], `departure`, [`message`], [`latest_senders`] | the rows of a conversation's log |
//! | [`media`] | files of conversations, and which messages use them |
//! | [`mentions`] | which messages mention which members, and which of these are unread |
//! | [`pins`] | which messages of a conversation are pinned |
//! | [`threads`] | the replies of messages: how many, and where they are |
//! | [`receipts`] | when members received and read messages |
//! | [`change`] | the transaction of a single change to a conversation |
//! | [`history`], [`sync`], [`stretch`], `scattered` | reading it, by `seq` and by `rev`, and messages far apart, out of both tiers |
//! | [`search`] | finding messages by their words, out of both tiers |
//! | `standing` | where conversations stand for users, in one statement |
//! | [`list`], [`user_revs`], [`list_marks`], [`relay`] | a user's conversation list, and how it follows the conversations |
//! | [`audit`] | who did what to whom, in a chain of hashes |
//! | [`reports`] | what readers report to moderators |
//! | [`contacts`], [`blocks`] | which users share a conversation; who blocks whom |
//! | [`notification`] | what users are told apart from messages |
//! | [`moves`] | moving ranges between shards while they are written to |
//! | [`text`] | what a reader sees of a text; emoji in one form |
//! | [`import`], `imported_channels` | bulk append with given times, and export; which conversation a channel is |
//! | [`dump`] | all rows of conversations and users as lines, out of a deployment and into another |
//! | [`routing`] | from a key to its shard; retries when a map was stale |
//! | [`store`] | the facade: every operation, authorised |
//! | [`metrics`] | the metrics of this crate, and what the tables of every crate are made with |
//! | [`tasks`] | tasks: how they are started, and what follows when one ends |
//! | [`archive`] | the archive's tables: index, segments, leases, erasures, holds |
//! | [`cold_tier`], [`commit_event`] | what other crates plug in: the archive tier and the commit listener |
//!
//! The invariants (INV-SEQ, INV-REV, INV-ACK, INV-IDEM, INV-OWNER, INV-TIER, INV-COPY, INV-MEMBER, INV-BOUND), the glossary,
//! and walk-throughs of a send, a cold page and a reconnect are in this crate's `README.md`.

pub mod archive;
pub mod audit;
pub mod blocks;
pub mod change;
mod circuit;
pub mod clock;
pub mod cold_tier;
pub mod commit_event;
pub mod contacts;
pub mod db;
mod departure;
pub mod directory;
pub mod dump;
pub mod error;
pub mod fence;
pub mod guard;
pub mod head;
pub mod history;
pub mod identity;
pub mod ids;
pub mod import;
mod imported_channels;
pub mod lane;
pub mod latencies;
mod latest_senders;
pub mod list;
pub mod list_marks;
pub mod map;
pub mod media;
pub mod member;
pub mod mentions;
pub mod message;
pub mod metrics;
pub mod migrate;
pub mod model;
pub mod moves;
pub mod node;
pub mod notification;
pub mod owned;
pub mod pins;
pub mod range;
pub mod receipts;
pub mod relay;
pub mod reports;
pub mod routing;
pub mod sanctions;
mod scattered;
mod schema;
pub mod search;
pub mod seen;
pub mod settings;
mod standing;
#[cfg(feature = "steps")]
pub mod steps;
pub mod store;
pub mod stretch;
pub mod sync;
pub mod tasks;
pub mod text;
pub mod threads;
pub mod transaction;
pub mod turns;
pub mod user_revs;
mod waiting;
