//! Helpers for the tests of all crates.
//!
//! - [`Proxy`]: a TCP proxy in front of a server that can be told to break: the "down, slow, lying" tests of whatever
//!   talks to a database, a bus or an object store.
//! - [`TestDatabases`]: empty databases of a test's own on the SQL server that the tests were given.
//! - [`dump()`]: everything that is in a database, to compare.
//! - [`s3_server`]: an S3 server in this process (feature `s3`).
//! - [`warnings`]: a test fails when something warns that it does not expect.
//! - [`sql_server_url`], [`redis_url`]: where the servers are.
//!
//! The helpers panic when they cannot do their work, also when there is no server: a test that has nothing to run
//! against fails and is never skipped.
#![expect(
    clippy::expect_used,
    reason = "a helper that cannot do its work fails the test that called it"
)]

mod databases;
mod dump;
mod proxy;
#[cfg(feature = "s3")]
#[expect(clippy::unwrap_used, reason = "as above")]
pub mod s3_server;
mod servers;
pub mod warnings;

pub use databases::TestDatabases;
pub use dump::{Dump, dump};
pub use proxy::{Mode, MySqlError, Proxy, Refused};
pub use servers::{redis_url, socket_address, sql_server_url};
