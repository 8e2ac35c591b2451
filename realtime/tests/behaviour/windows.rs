//! A conversation's latest changes.

use std::time::Duration;

use backscroll_realtime::push::{Push, PushKind, Topic};
use backscroll_realtime::redis::RedisSettings;
use backscroll_shard::ids::{Rev, UserId};
use backscroll_shard::settings::Span;

use crate::bed::{Bed, change, conversation, raw, settings, topic};

async fn bed(change: impl FnOnce(&mut RedisSettings)) -> (Bed, RedisSettings) {
    let mut settings = settings(&backscroll_testkit::redis_url());
    change(&mut settings);
    (Bed::with(&settings).await, settings)
}

async fn recent(bed: &Bed, after: u64) -> Vec<u64> {
    let run = bed.b.bus.recent(conversation(1), Rev(after)).await;
    run.iter().map(|push| push.rev.0).collect()
}

/// Publishes these and waits until they are in the window.
async fn publish(bed: &Bed, revs: &[u64]) {
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    for rev in revs {
        bed.a.bus.publish(&topic(1), &change(*rev));
    }
    bed.b.receives_again(&bed.a, &topic(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_whole_or_ends_before_a_hole() {
    let (bed, _) = bed(|_| ()).await;
    bed.b.bus.subscribe(topic(2)).await.unwrap();
    publish(&bed, &[4, 6, 5, 5, 8, 9]).await;
    assert_eq!(recent(&bed, 3).await, [4, 5, 6]);
    assert_eq!(recent(&bed, 5).await, [6]);
    assert_eq!(recent(&bed, 7).await, [8, 9]);
    for unknown in [0, 2, 6, 9, 100] {
        assert_eq!(recent(&bed, unknown).await, [0; 0], "after {unknown}");
    }
    bed.b.bus.publish(&topic(1), &change(7)); // another node had it
    bed.a.bus.subscribe(topic(3)).await.unwrap();
    bed.a.receives_again(&bed.b, &topic(3)).await;
    assert_eq!(recent(&bed, 3).await, [4, 5, 6, 7, 8, 9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_keeps_the_latest() {
    // One of 16 is cut at every second change: at the 24th the last time.
    for (messages, oldest) in [(10, 16), (16, 9)] {
        let (bed, _) = bed(|settings| settings.window_messages = messages).await;
        bed.b.bus.subscribe(topic(2)).await.unwrap();
        publish(&bed, &(1..=25).collect::<Vec<_>>()).await;
        assert_eq!(recent(&bed, oldest - 2).await, [0; 0]);
        assert_eq!(
            recent(&bed, oldest - 1).await,
            (oldest..=25).collect::<Vec<_>>()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_expires() {
    let (bed, _) = bed(|settings| settings.window_age = Span::millis(1500)).await;
    bed.b.bus.subscribe(topic(2)).await.unwrap();
    publish(&bed, &[1]).await;
    assert_eq!(recent(&bed, 0).await, [1]);
    tokio::time::sleep(Duration::from_millis(1700)).await;
    assert_eq!(recent(&bed, 0).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_changes_of_conversations_are_kept() {
    let (bed, settings) = bed(|_| ()).await;
    bed.b.bus.subscribe(topic(2)).await.unwrap();
    let user = UserId::new("alice").unwrap();
    bed.a.bus.publish(&Topic::User(user.clone()), &change(1));
    let typing = Push {
        kind: PushKind::UserTyping,
        user: Some(user),
        ..change(0)
    };
    bed.a.bus.publish(&topic(1), &typing);
    publish(&bed, &[]).await;
    assert_eq!(windows(&settings).await, 1); // of the topic that `publish` waits with
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_windows_no_change_is_kept() {
    let (bed, settings) = bed(|settings| settings.window_messages = 0).await;
    bed.b.bus.subscribe(topic(2)).await.unwrap();
    publish(&bed, &[1]).await;
    assert_eq!(windows(&settings).await, 0);
    assert_eq!(recent(&bed, 0).await, [0; 0]);
}

async fn windows(settings: &RedisSettings) -> usize {
    let mut redis = raw(&backscroll_testkit::redis_url()).await;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}.*.w:*", settings.prefix))
        .query_async(&mut redis)
        .await
        .unwrap();
    keys.len()
}
