//! Tasks that panic: what they held is answered or done again, and they begin anew.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backscroll_shard::cold_tier::NoArchive;
use backscroll_shard::commit_event::{CommitEvent, CommitListener, NoListener};
use backscroll_shard::error::Error;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::{Fault, Faults, Supervisor};
use backscroll_testkit::warnings;

use crate::bed::{Bed, PATIENCE, caller, text, text_as};
use crate::logged;

crate::on_every_backend!(
    a_lane_that_panics_answers_what_it_held_and_begins_anew,
    a_relay_that_panics_leaves_no_list_behind,
    every_task_of_a_store_is_started_again,
);

/// Panics when it is told of an event that `strikes` names, as often as that is asked for.
struct Panicking {
    strikes: fn(&CommitEvent) -> bool,
    left: AtomicU32,
}

impl CommitListener for Panicking {
    fn committed(&self, events: Vec<CommitEvent>) {
        let take = |left: u32| left.checked_sub(1);
        if events.iter().any(self.strikes)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
        {
            panic!("as the test asks");
        }
    }
}

async fn panicking(bed: &Bed, times: u32, strikes: fn(&CommitEvent) -> bool) -> Arc<Store> {
    let listener = Panicking {
        strikes,
        left: AtomicU32::new(times),
    };
    let supervisor = Supervisor::default();
    Store::open(
        &bed.settings,
        Arc::new(NoArchive),
        Arc::new(listener),
        &supervisor,
    )
    .await
    .unwrap()
}

async fn a_lane_that_panics_answers_what_it_held_and_begins_anew(bed: &Bed) {
    warnings::expect(logged::TASK_ENDS);
    let id = bed.group("alice", &[]).await;
    let store = panicking(
        bed,
        2,
        |event| matches!(event, CommitEvent::MessageCreated(message) if message.content == "strike"),
    )
    .await;
    for n in 0..2 {
        let key = format!("held {n}");
        let begun = Instant::now();
        let alice = caller("alice");
        let struck = store.send(&alice, id, text_as(&key, "strike"));
        let (struck, other) = tokio::join!(struck, async {
            tokio::task::yield_now().await;
            store.send(&alice, id, text("behind it")).await
        });
        let held = struck.unwrap_err();
        assert!(matches!(held, Error::ShardUnavailable(_)), "{held}");
        assert!(begun.elapsed() < PATIENCE / 2, "it is told at once");
        // In the same batch, or in the queue.
        assert!(other.is_ok() || other.is_err_and(|error| error.is_retryable()));
        let again = store.send(&alice, id, text_as(&key, "strike")).await;
        assert!(!again.unwrap().created, "what was committed is found");
    }
    assert!(store.supervisor().down().is_empty());
    store.close(Instant::now() + PATIENCE).await;
    assert!(store.supervisor().names().is_empty());
}

async fn a_relay_that_panics_leaves_no_list_behind(bed: &Bed) {
    warnings::expect(logged::TASK_ENDS);
    let id = bed.group("alice", &["bob"]).await;
    bed.settle().await;
    let store = panicking(bed, 1, |event| {
        matches!(event, CommitEvent::ListChanged { .. })
    })
    .await;
    store
        .send(&caller("alice"), id, text("to be told"))
        .await
        .unwrap();
    store.relay_idle(Instant::now() + PATIENCE).await.unwrap();
    let list = store.list_conversations(&caller("bob"), None, 10).await;
    assert_eq!(list.unwrap().conversations[0].unread_count, 1);
    store.close(Instant::now() + PATIENCE).await;
}

async fn every_task_of_a_store_is_started_again(bed: &Bed) {
    warnings::expect(logged::TASK_ENDS);
    let struck: Mutex<HashMap<String, u32>> = Mutex::default();
    let faults: Faults = Arc::new(move |name| {
        let mut struck = struck.lock().unwrap();
        let times = struck.entry(name.to_owned()).or_default();
        *times += 1;
        (*times <= 3).then_some(Fault::Panic(Duration::from_millis(10)))
    });
    let supervisor = Supervisor::with_faults(Some(faults));
    let opening = Store::open(
        &bed.settings,
        Arc::new(NoArchive),
        Arc::new(NoListener),
        &supervisor,
    );
    let store = opening.await.unwrap();
    let names = supervisor.names();
    let kind = |name: &Arc<str>| name.split('/').next().unwrap_or_default().to_owned();
    let kinds: BTreeSet<String> = names.iter().map(kind).collect();
    let expected = [
        "connections",
        "identity-check",
        "lane",
        "map-refresh",
        "relay",
        "report-evidence",
        "sanctions",
    ];
    assert_eq!(kinds, BTreeSet::from(expected.map(String::from)));
    let begun = Instant::now();
    let id = bed.group("alice", &[]).await;
    // Until all have run undisturbed for longer than a fault takes.
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(500) {
        let sent = store.send(&caller("alice"), id, text("one of many")).await;
        assert!(sent.is_ok() || sent.is_err_and(|error| error.is_retryable()));
        if !supervisor.down().is_empty() {
            quiet = Instant::now();
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", supervisor.down());
    }
    store
        .send(&caller("alice"), id, text("well"))
        .await
        .unwrap();
    store.close(Instant::now() + PATIENCE).await;
}
