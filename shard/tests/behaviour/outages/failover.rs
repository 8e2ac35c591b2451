//! A primary is replaced by another server at its address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::Position;
use backscroll_shard::settings::PoolSettings;
use backscroll_shard::store::Store;
use backscroll_testkit::{Mode, MySqlError, Refused};
use tokio::task::JoinSet;

use super::scene::{Scene, Senders};
use crate::bed::caller;

const READ_ONLY: MySqlError = MySqlError {
    number: 1290,
    state: "HY000",
};

/// A primary becomes read-only, goes away, and another server takes its address, under some hundred sends a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_a_pause_for_writers_and_hardly_one_for_readers() {
    let scene = Scene::set(|pool| *pool = PoolSettings::default()).await;
    let senders = Senders::start(&scene, 10, Duration::from_millis(20));
    let pages = Pages::start(&scene, 4);
    let pause = || tokio::time::sleep(Duration::from_secs(1));
    pause().await;
    let (error, what) = (READ_ONLY, Refused::Writes);
    scene.proxy.set(Mode::Refuse { error, what }).await;
    pause().await;
    scene.proxy.set(Mode::Cut).await;
    pause().await;
    scene.proxy.set(Mode::Pass).await;
    let begun = Instant::now();
    while let Err(error) = scene.send().await {
        assert!(error.is_retryable(), "{error:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "sends came back after {took:?}"
    );
    pause().await;
    let (pages, longest) = pages.stop().await;
    assert!(pages > 100, "{pages} pages");
    assert!(
        longest < Duration::from_millis(1800),
        "a page took {longest:?}"
    );
    let sent = senders.check(&scene.bed, scene.conversation).await;
    assert!(sent > 200, "{sent}");
    scene.close().await;
}

/// Readers, each of whose pages has to be answered.
struct Pages {
    stop: Arc<AtomicBool>,
    running: JoinSet<(usize, Duration)>,
}

impl Pages {
    fn start(scene: &Scene, number: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        for _ in 0..number {
            let (store, stop) = (scene.bed.store.clone(), stop.clone());
            running.spawn(read_pages(store, scene.conversation, stop));
        }
        Self { stop, running }
    }

    /// How many there were, and how long the slowest took.
    async fn stop(mut self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = (0, Duration::ZERO);
        while let Some(done) = self.running.join_next().await {
            let (pages, longest) = done.unwrap();
            all = (all.0 + pages, longest.max(all.1));
        }
        all
    }
}

async fn read_pages(
    store: Arc<Store>,
    conversation: ConversationId,
    stop: Arc<AtomicBool>,
) -> (usize, Duration) {
    let (mut pages, mut longest) = (0, Duration::ZERO);
    let bob = || caller("bob");
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let page = store
            .history(&bob(), conversation, Position::Latest, 20)
            .await;
        let took = begun.elapsed();
        page.unwrap_or_else(|error| panic!("page {pages}, after {took:?}: {error:?}"));
        pages += 1;
        longest = longest.max(took);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (pages, longest)
}
