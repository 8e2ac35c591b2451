//! The object store's behaviour suite on Garage, an S3 server of another make, and how Garage differs.
//!
//! `make test-garage` starts one and runs this. `cargo test` passes over it unless it is named; then, without a Garage,
//! it fails. All tests share a bucket: each has a prefix of its own, so they run side by side.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../suite/bed.rs"]
mod bed;
mod beds;
mod differences;
#[path = "../suite/layers.rs"]
mod layers;
#[path = "../suite/objects.rs"]
mod objects;
mod prefixed;
#[path = "../suite/probing.rs"]
mod probing;
#[path = "../suite/signed.rs"]
mod signed;
#[path = "../suite/uploads.rs"]
mod uploads;

/// Makes a test on Garage out of functions that take a [`bed::Bed`].
macro_rules! on_every_backend {
    ($($name:ident),* $(,)?) => {
        mod on_garage {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bed = $crate::beds::garage().await;
                super::$name(&bed).await;
            })*
        }
    };
}
pub(crate) use on_every_backend;
