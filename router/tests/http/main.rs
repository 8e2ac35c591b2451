//! The HTTP interface, over real connections, against the embedded store.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod audit;
mod back_ends;
mod blocks;
mod bodies;
mod bounds;
mod creating;
mod documentation;
mod harness;
mod issuers;
mod limits;
mod logged;
mod logs;
mod media;
mod metrics;
mod notifications;
mod operations;
mod rejections;
mod reports;
mod routes;
mod sanctions;
mod searching;
mod shutdown;
mod staff;
mod tokens;
