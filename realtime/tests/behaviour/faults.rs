//! Redis is gone, slow, stuck, or lies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_realtime::bus::Bus as _;
use backscroll_realtime::bus::lossy::LossyBus;
use backscroll_realtime::redis::{Redis, RedisSettings};
use backscroll_shard::ids::Rev;
use backscroll_shard::settings::{DatabaseUrl, Span};
use backscroll_shard::tasks::{Stuck, Supervisor};
use backscroll_testkit::{Mode, Proxy, redis_url, socket_address};

use crate::bed::{
    Bed, Node, OwnRedis, Swallower, change, conversation, eventually, settings, topic,
};

/// Longest time that something which never waits may take on a busy machine. A wait for Redis would take `redis.timeout`, 2 s.
const AT_ONCE: Duration = Duration::from_millis(1500);

async fn behind_proxy() -> (Proxy, Bed) {
    let proxy = Proxy::start(socket_address(&redis_url()));
    let mut settings = settings(&proxy.url(&redis_url()));
    settings.timeout = Span::millis(700);
    let bed = Bed::with(&settings).await;
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    (proxy, bed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_outlive_a_restart() {
    let mut redis = OwnRedis::start();
    let bed = Bed::with(&settings(&redis.url())).await;
    let mut subscribing = tokio::task::JoinSet::new();
    for n in 0..2000 {
        let node = bed.b.clone();
        subscribing.spawn(async move { node.bus.subscribe(topic(n)).await });
    }
    for subscribed in subscribing.join_all().await {
        subscribed.unwrap();
    }
    receives_all(&bed, 1).await;
    let interrupted = bed.b.recorded.interruptions();

    redis.stop();
    for n in 0..500 {
        bed.b.bus.unsubscribe(&topic(n));
    }
    let error = bed.b.bus.subscribe(topic(2000)).await.unwrap_err();
    assert!(!error.0.is_empty());
    redis.restart();
    eventually("the receiver is interrupted", || {
        bed.b.recorded.interruptions() > interrupted
    })
    .await;
    bed.b.bus.subscribe(topic(2000)).await.unwrap();
    bed.a.proven().await;

    bed.b.recorded.clear();
    for n in 0..=2000 {
        bed.a.bus.publish(&topic(n), &change(2));
    }
    eventually("all pushes arrive", || bed.b.recorded.topics() >= 1501).await;
    for n in 500..=2000 {
        assert_eq!(bed.b.recorded.revs(&topic(n)), [2]);
    }
    assert_eq!(bed.b.recorded.topics(), 1501);
}

async fn receives_all(bed: &Bed, rev: u64) {
    for n in 0..2000 {
        bed.a.bus.publish(&topic(n), &change(rev));
    }
    eventually("all pushes arrive", || bed.b.recorded.topics() >= 2000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_node_receives_its_own_pushes_and_later_the_others() {
    let mut redis = OwnRedis::start();
    let settings = settings(&redis.url());
    redis.stop();
    let (a, b) = (Node::redis(&settings), Node::redis(&settings));
    let asked = Instant::now();
    b.bus.subscribe(topic(1)).await.unwrap_err();
    assert!(asked.elapsed() < settings.timeout.0 + AT_ONCE);

    let started = Instant::now();
    for rev in 1..=10_000 {
        a.bus.publish(&topic(1), &change(rev));
    }
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    assert_eq!(a.recorded.revs(&topic(1)).len(), 10_000);
    assert!(a.bus.recent(conversation(1), Rev(0)).await.is_empty());
    tokio::time::sleep(settings.timeout.0).await; // until they are too old

    assert_eq!(b.recorded.interruptions(), 0);
    redis.restart();
    eventually("the receiver is interrupted", || {
        b.recorded.interruptions() > 0
    })
    .await;
    b.receives_again(&a, &topic(1)).await;
    assert!(
        b.recorded.revs(&topic(1))[0] > 10_000,
        "an old push was kept"
    );
}

/// Canaries go on while a node closes; they must not keep it from its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_node_closes_once_what_waits_is_too_old() {
    let mut redis = OwnRedis::start();
    let settings = settings(&redis.url());
    redis.stop();
    let supervisor = Supervisor::default();
    let node = Redis::open(&settings, "node", &supervisor).unwrap();
    node.bus().publish(&topic(1), &change(1));
    let begun = Instant::now();
    let deadline = begun + settings.timeout.0 * 100;
    node.close(deadline).await;
    assert!(
        begun.elapsed() >= settings.timeout.0 / 2,
        "it waits for Redis"
    );
    assert!(Instant::now() < deadline);
    assert_eq!(supervisor.stuck(), Stuck::default());

    let node = Redis::open(&settings, "node", &supervisor).unwrap();
    node.bus().publish(&topic(1), &change(1));
    node.close(Instant::now()).await;
    assert_eq!(
        supervisor.names(),
        Vec::<Arc<str>>::new(),
        "cut off at its deadline"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_and_does_not_wait() {
    let proxy = Proxy::start(socket_address(&redis_url()));
    let settings = RedisSettings {
        queue_pushes: 100,
        ..settings(&proxy.url(&redis_url()))
    };
    let bed = Bed::with(&settings).await;
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    proxy.set(Mode::Hang).await;
    let started = Instant::now();
    for rev in 1..=10_000 {
        bed.a.bus.publish(&topic(1), &change(rev));
    }
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    proxy.set(Mode::Pass).await;
    bed.b.receives_again(&bed.a, &topic(1)).await;
    let recorded = bed.b.recorded.revs(&topic(1));
    assert!(
        recorded.is_sorted() && recorded.len() < 2000,
        "{}",
        recorded.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_grows_while_redis_is_down_and_ends() {
    let (proxy, bed) = behind_proxy().await;
    for mode in [Mode::Cut, Mode::Hang] {
        let interrupted = bed.b.recorded.interruptions();
        proxy.set(mode).await;
        eventually("silence", || bed.b.silence() > Duration::from_millis(800)).await;
        proxy.set(Mode::Pass).await;
        bed.b.proven().await;
        bed.b.recorded.clear();
        bed.b.receives_again(&bed.a, &topic(1)).await;
        if mode == Mode::Cut {
            assert!(bed.b.recorded.interruptions() > interrupted);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_is_noticed_at_once() {
    let proxy = Proxy::start(socket_address(&redis_url()));
    let settings = RedisSettings {
        canary_interval: Span::secs(2), // the canary would notice after 10 s
        ..settings(&proxy.url(&redis_url()))
    };
    let bed = Bed::with(&settings).await;
    let interrupted = bed.b.recorded.interruptions();
    let cut = Instant::now();
    proxy.set(Mode::Cut).await;
    proxy.set(Mode::Pass).await;
    eventually("the receiver is interrupted", || {
        bed.b.recorded.interruptions() > interrupted
    })
    .await;
    assert!(cut.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_only_look_open_are_replaced() {
    let swallower = Swallower::start(socket_address(&redis_url())).await;
    let mut settings = settings(&format!("redis://{}/", swallower.address));
    settings.timeout = Span::millis(700);
    let bed = Bed::with(&settings).await;
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    assert_eq!(swallower.opened(), 6);
    let interrupted = bed.b.recorded.interruptions();

    swallower.swallow();
    eventually("the receiver is interrupted", || {
        bed.b.recorded.interruptions() > interrupted
    })
    .await;
    bed.b.receives_again(&bed.a, &topic(1)).await;
    bed.b.proven().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_confirmation_is_noticed() {
    let (proxy, bed) = behind_proxy().await;
    let interrupted = bed.b.recorded.interruptions();
    proxy.set(Mode::Hang).await;
    bed.b.bus.subscribe(topic(2)).await.unwrap_err();
    proxy.set(Mode::Pass).await;
    eventually("the receiver is interrupted", || {
        bed.b.recorded.interruptions() > interrupted
    })
    .await;
    bed.b.receives_again(&bed.a, &topic(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_confirmation_interrupts_the_receiver() {
    let proxy = Proxy::start(socket_address(&redis_url()));
    let settings = RedisSettings {
        canary_interval: Span::secs(2), // canaries are held up as well, and what is behind them
        ..settings(&proxy.url(&redis_url()))
    };
    let bed = Bed::with(&settings).await;
    proxy.set(Mode::Delay(Duration::from_millis(600))).await;
    let node = bed.b.clone();
    let mut first = tokio::task::JoinSet::new();
    first.spawn(async move { node.bus.subscribe(topic(1)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let interrupted = bed.b.recorded.interruptions();
    // The command is sent when the first subscription is confirmed, and answered after the deadline.
    bed.b.bus.subscribe(topic(2)).await.unwrap_err();
    first.join_all().await.remove(0).unwrap();
    assert_eq!(bed.b.recorded.interruptions(), interrupted);
    eventually("the receiver is interrupted", || {
        bed.b.recorded.interruptions() > interrupted
    })
    .await;
    proxy.set(Mode::Pass).await;
    bed.b.receives_again(&bed.a, &topic(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_away_redis_works() {
    let (proxy, bed) = behind_proxy().await;
    proxy.set(Mode::Delay(Duration::from_millis(50))).await;
    bed.b.bus.subscribe(topic(2)).await.unwrap();
    for rev in 1..=100 {
        bed.a.bus.publish(&topic(2), &change(rev));
    }
    eventually("all pushes arrive", || {
        bed.b.recorded.revs(&topic(2)).len() == 100
    })
    .await;
    assert!(bed.b.recorded.revs(&topic(2)).is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_connection_is_survived() {
    let (proxy, bed) = behind_proxy().await;
    proxy.set(Mode::Corrupt { every: 997 }).await;
    for rev in 1..=2000 {
        bed.a.bus.publish(&topic(1), &change(rev)); // the receiver compares what it gets
        let _ = bed.b.bus.recent(conversation(1), Rev(rev)).await;
        if rev % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    proxy.set(Mode::Pass).await;
    bed.b.receives_again(&bed.a, &topic(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_bus_loses_on_every_node() {
    let settings = settings(&redis_url());
    let supervisor = Supervisor::default();
    let bus = || Redis::open(&settings, "node", &supervisor).unwrap().bus();
    let lossy = |seed| Arc::new(LossyBus::new(bus(), 0.2, seed));
    let (a, b) = (lossy(1), lossy(2));
    let (node_a, node_b) = (Node::new(a.clone()), Node::new(b.clone()));
    let (node_a, node_b) = (node_a.connected().await, node_b.connected().await);
    node_b.bus.subscribe(topic(1)).await.unwrap();
    for rev in 1..=1000 {
        node_a.bus.publish(&topic(1), &change(rev));
    }
    eventually("all pushes arrive or are lost", || {
        node_b.recorded.revs(&topic(1)).len() as u64 + b.lost() >= 1000
    })
    .await;
    for (node, lost) in [(&node_a, a.lost()), (&node_b, b.lost())] {
        assert!((100..300).contains(&lost), "{lost}");
        assert_eq!(node.recorded.revs(&topic(1)).len() as u64 + lost, 1000);
    }
    assert_ne!(
        node_a.recorded.revs(&topic(1)),
        node_b.recorded.revs(&topic(1))
    );
}

#[test]
fn an_address_is_required() {
    let refused = |url: Option<&str>| {
        let settings = RedisSettings {
            url: url.map(|url| DatabaseUrl(url.to_owned())),
            ..RedisSettings::default()
        };
        let opened = Redis::open(&settings, "node", &Supervisor::default());
        opened.err().unwrap().to_string()
    };
    assert_eq!(refused(None), "redis.url: is not set");
    assert_eq!(
        refused(Some("rediss://u:secret@cache")),
        "redis.url: it does not begin with `redis://` (TLS is not supported)"
    );
}
