//! The object store's behaviour, the same on every backend.
//!
//! Each test runs twice: on a folder of its own, and on a bucket of its own, which an S3 server in this process serves
//! on 127.0.0.1. Tests share nothing, so they run side by side.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;
mod layers;
mod objects;
mod probing;
mod s3_server;
mod uploads;
mod wire;

/// Makes a test for every backend out of functions that take a [`bed::Bed`].
macro_rules! on_every_backend {
    ($($name:ident),* $(,)?) => {
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bed = $crate::bed::Bed::disk().await;
                super::$name(&bed).await;
            })*
        }
        mod on_s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bed = $crate::bed::Bed::s3().await;
                super::$name(&bed).await;
            })*
        }
    };
}
pub(crate) use on_every_backend;
