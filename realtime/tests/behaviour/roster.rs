//! The roster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_realtime::bus::in_process::InProcessRoster;
use backscroll_realtime::bus::{BusUnavailable, Roster, Status};
use backscroll_realtime::redis::{Redis, RedisRoster, RedisSettings};
use backscroll_shard::ids::UserId;
use backscroll_shard::settings::Span;
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::{Mode, Proxy, redis_url, socket_address};

use crate::bed::{OwnRedis, raw, settings};

fn user(n: usize) -> UserId {
    UserId::new(format!("user {n}")).unwrap()
}

fn short_lease(url: &str) -> RedisSettings {
    RedisSettings {
        lease: Span::millis(1500),
        ..settings(url)
    }
}

async fn until_renewed(roster: &impl Roster) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match roster.renew().await {
            Ok(known) => return known,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn open(settings: &RedisSettings, node: &str) -> Arc<RedisRoster> {
    let opened = Redis::open(settings, node, &Supervisor::default());
    let roster = opened.unwrap().roster();
    assert!(
        !until_renewed(roster.as_ref()).await,
        "a new one is unknown"
    );
    roster
}

async fn statuses(roster: &dyn Roster, users: std::ops::Range<usize>) -> Vec<Status> {
    let asked: Vec<UserId> = users.map(user).collect();
    let known = roster.look_up(&asked).await.unwrap();
    let status = |user: &UserId| known.get(user).copied().unwrap_or_default();
    asked.iter().map(status).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_roster_shows_what_was_set() {
    let settings = settings(&redis_url());
    let rosters: [Arc<dyn Roster>; 2] = [
        Arc::new(InProcessRoster::default()),
        open(&settings, "a").await,
    ];
    for roster in rosters {
        let many: Vec<_> = (0..2000).map(|n| (user(n), Status::Online)).collect();
        roster.set(&many).await.unwrap();
        assert!(roster.renew().await.unwrap());
        assert_eq!(statuses(&*roster, 0..2000).await, [Status::Online; 2000]);
        let changes = [
            (user(0), Status::Offline),
            (user(1), Status::Away),
            (user(2), Status::Offline),
            (user(2), Status::Idle),
            (user(3), Status::Busy),
            (user(3), Status::Offline),
            (user(5000), Status::Offline),
        ];
        roster.set(&changes).await.unwrap();
        roster.set(&[]).await.unwrap();
        assert_eq!(
            statuses(&*roster, 0..5).await,
            [
                Status::Offline,
                Status::Away,
                Status::Idle,
                Status::Offline,
                Status::Online
            ]
        );
        assert_eq!(roster.look_up(&[]).await.unwrap(), HashMap::new());
        assert_eq!(roster.nodes().await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_greatest_status_counts_and_the_users_of_a_dead_node_go_offline() {
    let settings = short_lease(&redis_url());
    let (a, b) = (open(&settings, "a").await, open(&settings, "b").await);
    a.set(&[(user(0), Status::Idle), (user(1), Status::Online)])
        .await
        .unwrap();
    b.set(&[(user(0), Status::Busy), (user(2), Status::Online)])
        .await
        .unwrap();
    for roster in [&a, &b] {
        assert_eq!(
            statuses(roster.as_ref(), 0..4).await,
            [
                Status::Busy,
                Status::Online,
                Status::Online,
                Status::Offline
            ]
        );
        let mut nodes = roster.nodes().await.unwrap();
        nodes.sort();
        assert_eq!(nodes, [a.node(), b.node()]);
    }

    let name = b.node().to_owned();
    drop(b); // it no longer renews its lease
    let deadline = Instant::now() + Duration::from_secs(10);
    while a.nodes().await.unwrap().contains(&name) {
        assert!(Instant::now() < deadline);
        assert!(a.renew().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        statuses(a.as_ref(), 0..3).await,
        [Status::Idle, Status::Online, Status::Offline]
    );
    let mut redis = raw(&redis_url()).await;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}.*", settings.prefix))
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(keys.len(), 3, "{keys:?}"); // the set of nodes, a's users and a's canary
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_does_not_keep_its_predecessors_users() {
    let settings = short_lease(&redis_url());
    let before = open(&settings, "a").await;
    before.set(&[(user(0), Status::Online)]).await.unwrap();
    drop(before);
    let after = open(&settings, "a").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while statuses(after.as_ref(), 0..1).await != [Status::Offline] {
        assert!(Instant::now() < deadline);
        after.renew().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_forgotten_learns_it() {
    let mut redis = OwnRedis::start();
    let settings = settings(&redis.url());
    let roster = open(&settings, "a").await;
    roster.set(&[(user(0), Status::Online)]).await.unwrap();
    assert!(roster.renew().await.unwrap());

    redis.restart();
    let reconnects = Instant::now() + Duration::from_secs(20);
    // A change that comes before the renewal does not pass for everything.
    while roster.set(&[(user(1), Status::Online)]).await.is_err() {
        assert!(Instant::now() < reconnects);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!roster.renew().await.unwrap());
    assert!(roster.renew().await.unwrap());
    assert_eq!(
        statuses(roster.as_ref(), 0..2).await,
        [Status::Offline, Status::Online]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_lease_ended_learns_it() {
    let settings = short_lease(&redis_url());
    let roster = open(&settings, "a").await;
    roster.set(&[(user(0), Status::Online)]).await.unwrap();
    assert!(roster.renew().await.unwrap());
    tokio::time::sleep(settings.lease.0 + Duration::from_millis(200)).await;
    assert_eq!(statuses(roster.as_ref(), 0..1).await, [Status::Offline]);
    assert!(!roster.renew().await.unwrap());
    assert!(roster.renew().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_that_could_not_be_set_are_set_again() {
    let proxy = Proxy::start(socket_address(&redis_url()));
    let mut settings = settings(&proxy.url(&redis_url()));
    settings.timeout = Span::millis(300);
    let roster = open(&settings, "a").await;
    assert!(roster.renew().await.unwrap());
    for mode in [Mode::Hang, Mode::Cut] {
        proxy.set(mode).await;
        let asked = Instant::now();
        let refused: BusUnavailable = roster.set(&[(user(0), Status::Online)]).await.unwrap_err();
        assert!(!refused.0.is_empty());
        roster.renew().await.unwrap_err();
        roster.look_up(&[user(0)]).await.unwrap_err();
        roster.nodes().await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(3));
        proxy.set(Mode::Pass).await;
        assert!(!until_renewed(roster.as_ref()).await);
        assert!(until_renewed(roster.as_ref()).await);
    }
}
