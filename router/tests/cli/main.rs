//! The command line as an operator meets it: the real binary, its output, its exit codes, killed and started again.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot do its work fails the test that called it"
)]

mod adding;
mod audit;
mod clocks;
mod config;
mod crash;
mod databases;
mod deaths;
mod demo;
mod deployments;
mod documents;
mod draining;
mod export;
mod galera;
mod harness;
mod help;
mod identity;
mod import;
mod import_formats;
mod import_kinds;
mod import_refusals;
mod ledger;
mod log;
mod media;
mod metrics;
mod own_redis;
mod presence;
mod rebalance;
mod tasks;
mod tiers;
mod token;
