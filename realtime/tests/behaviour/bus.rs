//! What every bus does.

use std::time::{Duration, Instant};

use backscroll_realtime::bus::Bus as _;
use backscroll_realtime::push::Topic;
use backscroll_shard::ids::{Rev, UserId};

use crate::bed::{Bed, change, conversation, eventually, raw, settings, topic};

/// Makes a test for every bus out of functions that take a [`Bed`].
macro_rules! on_every_bus {
    ($($name:ident),* $(,)?) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&crate::bed::Bed::in_process()).await;
            })*
        }
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&crate::bed::Bed::redis().await).await;
            })*
        }
    };
}

on_every_bus!(
    pushes_arrive_in_order,
    topics_do_not_mix,
    a_publisher_receives_its_own_push_once_and_at_once,
    unsubscribing_is_final,
    an_unknown_conversation_has_an_empty_window,
);

async fn pushes_arrive_in_order(bed: &Bed) {
    let topic = topic(1);
    bed.b.bus.subscribe(topic.clone()).await.unwrap();
    bed.b.bus.subscribe(topic.clone()).await.unwrap();
    for rev in 1..=3000 {
        bed.a.bus.publish(&topic, &change(rev));
    }
    eventually("all pushes arrive", || {
        bed.b.recorded.revs(&topic).len() >= 3000
    })
    .await;
    let all: Vec<u64> = (1..=3000).collect();
    assert_eq!(bed.b.recorded.revs(&topic), all);
}

async fn topics_do_not_mix(bed: &Bed) {
    let user = UserId::new("a b:{c}}. ü").unwrap();
    let topics = [
        Topic::User(user.clone()),
        Topic::Presence(user),
        topic(1),
        topic(2),
    ];
    for topic in &topics {
        bed.b.bus.subscribe(topic.clone()).await.unwrap();
    }
    for (topic, rev) in topics.iter().zip(1..) {
        bed.a.bus.publish(topic, &change(rev));
    }
    eventually("all pushes arrive", || bed.b.recorded.topics() == 4).await;
    for (topic, rev) in topics.iter().zip(1..) {
        assert_eq!(bed.b.recorded.revs(topic), [rev], "{topic}");
    }
}

async fn a_publisher_receives_its_own_push_once_and_at_once(bed: &Bed) {
    let (first, last) = (topic(1), topic(2));
    for topic in [&first, &last] {
        bed.a.bus.subscribe(topic.clone()).await.unwrap();
        bed.b.bus.subscribe(topic.clone()).await.unwrap();
    }
    bed.a.bus.publish(&first, &change(1));
    assert_eq!(bed.a.recorded.revs(&first), [1]);
    // Had Redis sent it back, that would have come before the other node's answer.
    bed.b.bus.publish(&last, &change(2));
    eventually("the answer", || bed.a.recorded.revs(&last) == [2]).await;
    eventually("the other push arrives", || {
        bed.b.recorded.revs(&first) == [1]
    })
    .await;
    bed.b.bus.publish(&last, &change(3));
    eventually("the answer", || bed.a.recorded.revs(&last) == [2, 3]).await;
    assert_eq!(bed.a.recorded.revs(&first), [1]);
}

async fn unsubscribing_is_final(bed: &Bed) {
    let (left, kept) = (topic(1), topic(2));
    for topic in [&left, &kept] {
        bed.b.bus.subscribe(topic.clone()).await.unwrap();
    }
    bed.b.bus.unsubscribe(&left);
    bed.b.bus.unsubscribe(&topic(3)); // never subscribed to
    bed.b.bus.subscribe(left.clone()).await.unwrap(); // the last word counts
    bed.a.bus.publish(&left, &change(1));
    eventually("the push arrives", || bed.b.recorded.revs(&left) == [1]).await;
    assert!(bed.a.bus.may_have_listeners(&left));
    bed.b.bus.unsubscribe(&left);
    bed.a.bus.publish(&kept, &change(2));
    eventually("the other push arrives", || {
        bed.b.recorded.revs(&kept) == [2]
    })
    .await;
}

async fn an_unknown_conversation_has_an_empty_window(bed: &Bed) {
    assert!(bed.b.bus.recent(conversation(1), Rev(0)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_has_subscriptions_to_the_wanted_topics_only() {
    let url = backscroll_testkit::redis_url();
    let settings = settings(&url);
    let bed = Bed::with(&settings).await;
    let mut redis = raw(&url).await;
    let before = subscriptions(&mut redis, &settings.prefix).await;
    assert_eq!(before, 3); // two canaries, and the topic of `Node::connected`

    let mut subscribing = tokio::task::JoinSet::new();
    for n in 0..2000 {
        let node = bed.b.clone();
        subscribing.spawn(async move { node.bus.subscribe(topic(n)).await });
    }
    for subscribed in subscribing.join_all().await {
        subscribed.unwrap();
    }
    assert_eq!(subscriptions(&mut redis, &settings.prefix).await, 2003);
    let patterns: i64 = redis::cmd("PUBSUB")
        .arg("NUMPAT")
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(patterns, 0);

    for n in 0..2000 {
        bed.b.bus.unsubscribe(&topic(n));
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while subscriptions(&mut redis, &settings.prefix).await > 3 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bed.a.bus.publish(&topic(7), &change(1));
    bed.b.receives_again(&bed.a, &topic(u64::MAX)).await;
    assert!(bed.b.recorded.revs(&topic(7)).is_empty());
}

async fn subscriptions(redis: &mut redis::aio::MultiplexedConnection, prefix: &str) -> usize {
    let channels: Vec<String> = redis::cmd("PUBSUB")
        .arg("CHANNELS")
        .arg(format!("{prefix}.*"))
        .query_async(redis)
        .await
        .unwrap();
    channels.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_do_not_receive_each_other_s_pushes() {
    let (one, other) = (Bed::redis().await, Bed::redis().await);
    one.b.bus.subscribe(topic(1)).await.unwrap();
    other.b.bus.subscribe(topic(1)).await.unwrap();
    one.a.bus.publish(&topic(1), &change(1));
    other.b.receives_again(&other.a, &topic(1)).await;
    eventually("the push arrives", || one.b.recorded.revs(&topic(1)) == [1]).await;
    assert!(!other.b.recorded.revs(&topic(1)).contains(&1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_ignored() {
    let url = backscroll_testkit::redis_url();
    let settings = settings(&url);
    let bed = Bed::with(&settings).await;
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    let mut redis = raw(&url).await;
    let channels: Vec<String> = redis::cmd("PUBSUB")
        .arg("CHANNELS")
        .arg(format!("{}.*", settings.prefix))
        .query_async(&mut redis)
        .await
        .unwrap();
    let interrupted = bed.b.recorded.interruptions();
    for channel in &channels {
        for garbage in [
            &b""[..],
            b"\n",
            b"\xff\xfe\n{}",
            b"bs1 x\n",
            b"bs1 x\n{}",
            b"bs1 x\n{\"k\":\"no_such\",\"r\":1,\"t\":1,\"d\":{}}",
            b"bs9 x\n{\"k\":\"new_message\",\"r\":1,\"t\":1,\"d\":{}}",
            b"bs1 x\n99999999999999999999",
        ] {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(channel).arg(garbage);
            let _: i64 = publish.query_async(&mut redis).await.unwrap();
        }
    }
    bed.a.bus.publish(&topic(1), &change(1));
    eventually("the pushes after that arrive", || {
        bed.b.recorded.revs(&topic(1)) == [1]
    })
    .await;
    assert_eq!(bed.b.recorded.interruptions(), interrupted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_publishes_the_pushes_that_wait() {
    let settings = settings(&backscroll_testkit::redis_url());
    let bed = Bed::with(&settings).await;
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    let supervisor = backscroll_shard::tasks::Supervisor::default();
    let leaving = backscroll_realtime::redis::Redis::open(&settings, "leaving", &supervisor);
    let leaving = leaving.unwrap();
    for rev in 1..=2000 {
        leaving.bus().publish(&topic(1), &change(rev));
    }
    leaving
        .close(Instant::now() + settings.timeout.0 * 10)
        .await;
    eventually("all pushes arrive", || {
        bed.b.recorded.revs(&topic(1)).len() == 2000
    })
    .await;
    leaving.bus().publish(&topic(1), &change(2001)); // goes nowhere, and does not wait
}
