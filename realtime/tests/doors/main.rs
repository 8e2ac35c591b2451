//! The behaviour of both doors, over sockets, on a store of SQLite files.
//!
//! | module | contents |
//! |---|---|
//! | `bed` | a server of a test's own |
//! | `client` | one client with two codecs: native, and Socket.IO written by hand |
//! | `sessions`, `conversations`, `presence`, `endings` | behaviour of both doors, each test through each door |
//! | `native_door`, `socket_io_door` | behaviour of one door |
//! | `custom` | events of a back end |
//! | `plain` | front-ends with a plain WebSocket |
//! | `hostile` | clients that break the protocol, at the native door |
//! | `node` | the client library of Socket.IO, and the protocol's own test suite; needs Node.js |
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bed;
mod client;
mod conversations;
mod custom;
mod endings;
mod hostile;
mod native_door;
mod node;
mod plain;
mod presence;
mod sanctions;
mod searching;
mod sessions;
mod socket_io_door;

/// Makes a test for each door out of functions that take a [`client::Door`].
macro_rules! through_both_doors {
    ($($name:ident),* $(,)?) => {
        mod native {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::client::Door::Native).await;
            })*
        }
        mod socket_io {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::client::Door::SocketIo).await;
            })*
        }
    };
}
pub(crate) use through_both_doors;
