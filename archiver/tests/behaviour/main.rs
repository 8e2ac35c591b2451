//! The object store's behaviour, the same on every backend: on those that this process can be by itself. `tests/garage`
//! runs the same suite on Garage. And the archive's, see `archive`.
//!
//! Each test runs twice: on a folder of its own, and on a bucket of its own, which an S3 server in this process serves
//! on 127.0.0.1. Tests share nothing, so they run side by side.
#![expect(clippy::unwrap_used, reason = "tests")]

mod archive;
#[path = "../suite/bed.rs"]
mod bed;
mod beds;
#[path = "../suite/layers.rs"]
mod layers;
#[path = "../suite/objects.rs"]
mod objects;
#[path = "../suite/probing.rs"]
mod probing;
#[path = "../suite/signed.rs"]
mod signed;
#[path = "../suite/uploads.rs"]
mod uploads;
mod wire;

use backscroll_testkit::s3_server;

/// Makes a test for every backend out of functions that take a [`bed::Bed`].
macro_rules! on_every_backend {
    ($($name:ident),* $(,)?) => {
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bed = $crate::beds::disk().await;
                super::$name(&bed).await;
            })*
        }
        mod on_s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bed = $crate::beds::OnServer::start().await;
                super::$name(&bed).await;
            })*
        }
    };
}
pub(crate) use on_every_backend;
