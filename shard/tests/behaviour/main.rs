//! The store's behaviour, the same on every backend.
//!
//! Each test runs twice: on four SQLite files, and on four databases of the SQL server that `make test` started (MariaDB,
//! or with `make test-mysql` MySQL). Tests share nothing, so they run side by side.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod audit;
mod bed;
mod blocks;
mod bounds;
mod contacts;
mod conversations;
mod costs;
mod creating;
mod faults;
mod fences;
mod identity;
mod imports;
mod leases;
mod leaving;
mod limits;
mod live;
mod logged;
mod media;
mod mentions;
mod messages;
mod moves;
mod notifications;
mod outages;
mod owners;
mod pins;
mod plans;
mod previews;
mod receipts;
mod reports;
mod sanctions;
mod search;
mod sync;
mod tasks;
mod threads;
mod watermarks;

/// Makes a test for every backend out of functions that take a [`bed::Bed`]; with a function that adjusts its settings.
macro_rules! on_every_backend {
    ($($name:ident),* $(,)?) => {
        $crate::on_every_backend!(with unchanged: $($name),*);
        fn unchanged(_: &mut backscroll_shard::settings::StoreSettings) {}
    };
    (with $adjust:ident: $($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bed = $crate::bed::Bed::sqlite_with(super::$adjust).await;
                super::$name(&bed).await;
                bed.close().await;
            })*
        }
        mod on_server {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bed = $crate::bed::Bed::server_with(super::$adjust).await;
                super::$name(&bed).await;
                bed.close().await;
            })*
        }
    };
}
pub(crate) use on_every_backend;
