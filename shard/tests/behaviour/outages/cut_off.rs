//! A database behind a network that is cut, hangs or breaks connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::{Caller, Position};
use backscroll_shard::settings::{DatabaseUrl, Span};
use backscroll_testkit::{Mode, Proxy, socket_address};

use crate::bed::{Bed, PATIENCE, caller, text, text_as, user};
use crate::faults::home_of;
use crate::logged;

/// Two conversations on different shards, the first of which is behind `proxies[0]`.
async fn beds_with_a_proxy() -> (Bed, Proxy, ConversationId, ConversationId) {
    logged::expect_outage();
    let server = socket_address(&backscroll_testkit::sql_server_url());
    let proxy = Proxy::start(server);
    let bed = Bed::server_with(|settings| {
        settings.pool.statement_timeout = Span::millis(500);
        settings.pool.acquire_timeout = Span::millis(500);
        settings.pool.breaker_cooldown = Span::millis(100);
        let primary = &mut settings.shards[0].primary;
        *primary = DatabaseUrl(proxy.url(&primary.0));
    })
    .await;
    let first = bed.settings.shards[0].name.clone();
    let name_on = |wanted: bool| {
        (0..)
            .map(|n| format!("user{n}"))
            .find(|name| (home_of(&bed, name).shard == first) == wanted)
            .unwrap()
    };
    let (here, there) = (name_on(true), name_on(false));
    let behind = bed.group(&here, &[&there, "alice"]).await;
    let beside = bed.group(&there, &[&here, "alice"]).await;
    bed.settle().await;
    (bed, proxy, behind, beside)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_shard_fails_alone_and_comes_back() {
    let (bed, proxy, behind, beside) = beds_with_a_proxy().await;
    for mode in [Mode::Cut, Mode::Hang] {
        proxy.set(mode).await;
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let store = bed.store.clone();
            waiting.spawn(async move { store.send(&caller("alice"), behind, text("lost")).await });
        }
        for n in 0..100 {
            let caller = Caller::new(user("alice"), Duration::from_secs(2));
            bed.store
                .send(&caller, beside, text(&n.to_string()))
                .await
                .expect("the other shards do not notice");
        }
        while let Some(outcome) = waiting.join_next().await {
            let outcome = outcome.unwrap();
            assert!(
                matches!(&outcome, Err(error) if error.is_retryable()),
                "{mode:?}: {outcome:?}"
            );
        }
        let health = bed.store.health(Duration::from_millis(300)).await;
        assert_eq!(
            health
                .shards
                .iter()
                .filter(|shard| shard.primary.ok)
                .count(),
            3
        );
        // Once that is known nobody waits for it, except the one that tries.
        let refused_at_once = async {
            loop {
                let begun = Instant::now();
                let outcome = bed.store.send(&caller("alice"), behind, text("lost")).await;
                assert!(
                    matches!(&outcome, Err(error) if error.is_retryable()),
                    "{mode:?}: {outcome:?}"
                );
                if begun.elapsed() < Duration::from_millis(20) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, refused_at_once)
            .await
            .expect("it is known to be away");
        proxy.set(Mode::Pass).await;
        let back = async {
            while bed
                .store
                .send(&caller("alice"), behind, text_as("once", "back"))
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, back)
            .await
            .expect("it comes back by itself");
    }
    let log = bed.log("alice", behind).await;
    assert_eq!(
        log.iter()
            .filter(|message| message.client_msg_id.is_some())
            .count(),
        1
    );
    bed.close().await;
}

/// Connections that break at any moment, also in the middle of a commit: whoever repeats an unanswered send with its id
/// ends with exactly one message (INV-ACK, INV-IDEM, INV-SEQ).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_lose_and_double_nothing() {
    let (bed, proxy, behind, _) = beds_with_a_proxy().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..10 {
        let (store, stop) = (bed.store.clone(), stop.clone());
        senders.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("{sender}-{n}");
                loop {
                    match store
                        .send(&caller("alice"), behind, text_as(&key, &key))
                        .await
                    {
                        Ok(sent) => break acknowledged.push((sent.message.seq, key)),
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            acknowledged
        });
    }
    for n in 0..25u64 {
        tokio::time::sleep(Duration::from_millis(20 + n * 7 % 40)).await;
        proxy.set(Mode::Cut).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.set(Mode::Pass).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    while let Some(done) = senders.join_next().await {
        acknowledged.extend(done.unwrap());
    }
    acknowledged.sort();
    while bed
        .store
        .history(&caller("alice"), behind, Position::Latest, 1)
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(50)).await; // it may be thought to be away still
    }
    let log = bed.log("alice", behind).await;
    let stored: Vec<_> = log
        .into_iter()
        .map(|message| (message.seq, message.client_msg_id.unwrap()))
        .collect();
    assert!(stored.len() > 20, "they did send: {}", stored.len());
    assert_eq!(stored, acknowledged);
    assert_eq!(stored.last().unwrap().0.0, stored.len() as u64);
    bed.close().await;
}
