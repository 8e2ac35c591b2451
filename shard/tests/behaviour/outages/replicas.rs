//! Replicas that are behind, hang, or are gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::db::Value;
use backscroll_shard::ids::{ConversationId, ShardName};
use backscroll_shard::model::Position;
use backscroll_shard::moves::{MoveState, Mover, Order, Reason};
use backscroll_shard::settings::{DatabaseUrl, RebalanceSettings, Span};
use backscroll_shard::store::Store;
use backscroll_testkit::{Mode, Proxy, TestDatabases, socket_address, warnings};

use crate::bed::{Bed, PATIENCE, caller};
use crate::faults::{connect_to, home_of};
use crate::logged;

/// What the replica holds in place of the messages, to be told apart.
const COPY: &str = "from the replica";

/// A copy of a shard's conversations, made by hand.
async fn replicate(bed: &Bed, shard: &ShardName) -> (TestDatabases, DatabaseUrl) {
    let replica = TestDatabases::create(1).await;
    let url = DatabaseUrl(replica.urls().remove(0));
    let name = |url: &DatabaseUrl| url.0.rsplit('/').next().unwrap().to_owned();
    let mut shards = bed.settings.shards.iter();
    let primary = &shards.find(|one| one.name == *shard).unwrap().primary;
    let (from, to) = (name(primary), name(&url));
    let mut operator = connect_to(bed, &url).await;
    for table in [
        "conversations",
        "messages",
        "identity",
        "fences",
        "arrivals",
    ] {
        for statement in [
            format!("CREATE TABLE {to}.{table} LIKE {from}.{table}"),
            format!("INSERT INTO {to}.{table} SELECT * FROM {from}.{table}"),
        ] {
            operator.execute(&statement, &[]).await.unwrap();
        }
    }
    let mark = format!("UPDATE messages SET content = '{COPY}'");
    operator.execute(&mark, &[]).await.unwrap();
    (replica, url)
}

async fn with_replica(bed: &Bed, shard: &ShardName, url: &str) -> std::sync::Arc<Store> {
    warnings::expect(logged::REPLICA_AWAY);
    let mut settings = bed.settings.clone();
    for one in &mut settings.shards {
        one.replicas = match one.name == *shard {
            true => vec![DatabaseUrl(url.to_owned())],
            false => Vec::new(),
        };
    }
    Bed::another(&settings).await
}

/// What the newest messages say, and how long the page took.
async fn newest(store: &Store, id: ConversationId) -> (Vec<String>, Duration) {
    let begun = Instant::now();
    let page = store.history(&caller("bob"), id, Position::Latest, 2).await;
    let messages = page.unwrap().messages.into_iter();
    let contents = messages.map(|message| message.content).collect();
    (contents, begun.elapsed())
}

/// Waits until pages come from the replica: it may have been slow to take the first connection.
async fn until_used(store: &Store, id: ConversationId) {
    let begun = Instant::now();
    while newest(store, id).await.0 != [COPY, COPY] {
        assert!(begun.elapsed() < PATIENCE, "the replica is never used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A replica that has a conversation's latest rev is not used while it does not know that its shard owns the range: it may lack what was
/// copied last, or still have what was given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_used_only_at_the_epoch_of_the_map() {
    let bed = Bed::server().await;
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..5 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let shard = home_of(&bed, "alice").shard;
    let (replica, url) = replicate(&bed, &shard).await;
    let store = with_replica(&bed, &shard, &url.0).await;
    until_used(&store, id).await;
    let mut operator = connect_to(&bed, &url).await;
    for (behind, caught_up) in [
        (
            "UPDATE fences SET epoch = epoch - 1",
            "UPDATE fences SET epoch = epoch + 1",
        ),
        (
            "UPDATE fences SET state = 'gone'",
            "UPDATE fences SET state = 'open'",
        ),
    ] {
        operator.execute(behind, &[]).await.unwrap();
        assert_eq!(newest(&store, id).await.0, ["3", "4"], "{behind}");
        operator.execute(caught_up, &[]).await.unwrap();
        until_used(&store, id).await;
    }
    store.close(Instant::now() + PATIENCE).await;
    bed.close().await;
    replica.drop_all().await;
}

/// A move waits for a replica of its target that is behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_waits_for_a_replica() {
    let bed = Bed::server().await;
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..40 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let from = home_of(&bed, "alice");
    let mut others = bed.settings.shards.iter().map(|it| &it.name);
    let to = others.find(|name| **name != from.shard).unwrap();
    let (replica, url) = replicate(&bed, to).await;
    let store = with_replica(&bed, to, &url.0).await;
    let settings = RebalanceSettings {
        max_replica_lag: Span::millis(100),
        ..RebalanceSettings::default()
    };
    let mover = Mover::new(Arc::clone(store.router()), "test").with_settings(settings);
    let order = Order {
        actor: "test".into(),
        reason: "to see".into(),
    };
    let job = mover.begin(from.range, to, &order).await.unwrap();
    mover.throttle(job.id, Some(10), &order).await.unwrap();
    let until = async |name: &str| loop {
        let now = mover.find(job.id).await.unwrap();
        let reason = mover.explain(&now).await.unwrap();
        if reason.name() == name {
            break reason;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let watch = async {
        let reason = until("replica_lag").await;
        let Reason::ReplicaLag {
            shard,
            lag_ms,
            most_ms: 100,
        } = &reason
        else {
            panic!("{reason:?}")
        };
        assert!(shard == to && *lag_ms > 100, "{reason:?}");
        // It catches up, and stays so.
        let mut operator = connect_to(&bed, &url).await;
        let row = "INSERT INTO arrivals (job, range_start, runner, step, position, copied_rows, copied_bytes, beat) \
             VALUES (?, x'0000000000000000', 1, 0, '', 0, 0, 9000000000000)";
        let args = [Value::Bytes(job.id.as_bytes())];
        operator.execute(row, &args).await.unwrap();
        mover.throttle(job.id, None, &order).await.unwrap();
        std::future::pending::<()>().await
    };
    let done = tokio::select! {
        done = mover.run(job.id) => done.unwrap(),
        () = watch => unreachable!(),
        () = tokio::time::sleep(3 * PATIENCE) => panic!("{:?}", mover.find(job.id).await),
    };
    assert_eq!(done.state, MoveState::Draining);
    store.close(Instant::now() + PATIENCE).await;
    bed.close().await;
    replica.drop_all().await;
}

/// A replica answers when it has seen everything, and only then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_used_only_while_it_is_current() {
    let bed = Bed::server().await;
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..5 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let home = home_of(&bed, "alice").shard;
    let (replica, url) = replicate(&bed, &home).await;
    let store = with_replica(&bed, &home, &url.0).await;
    until_used(&store, id).await;
    let mut operator = connect_to(&bed, &url).await;
    let other = "UPDATE identity SET shard = 'another'";
    operator.execute(other, &[]).await.unwrap();
    let stranger = with_replica(&bed, &home, &url.0).await;
    let (contents, _) = newest(&stranger, id).await;
    assert_eq!(contents, ["3", "4"], "another shard's: the primary answers");
    stranger.close(Instant::now() + PATIENCE).await;
    bed.say("bob", id, "news").await;
    let (contents, _) = newest(&store, id).await;
    assert_eq!(contents, ["4", "news"], "it is behind: the primary answers");
    replica.drop_all().await;
    let (contents, _) = newest(&store, id).await;
    assert_eq!(contents, ["4", "news"], "it is gone: the primary answers");
    store.close(Instant::now() + PATIENCE).await;
    bed.close().await;
}

/// A replica that hangs holds up the pages that meet it first, for a moment, and no others; once it answers it is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_is_passed_over() {
    let bed = Bed::server().await;
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..5 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let home = home_of(&bed, "alice").shard;
    let (replica, url) = replicate(&bed, &home).await;
    let proxy = Proxy::start(socket_address(&url.0));
    let store = with_replica(&bed, &home, &proxy.url(&url.0)).await;
    for _ in 0..2 {
        until_used(&store, id).await;
        proxy.set(Mode::Hang).await;
        let (contents, first) = newest(&store, id).await;
        assert_eq!(contents, ["3", "4"]);
        assert!(first < Duration::from_secs(1), "{first:?}");
        let mut others = Vec::new();
        for _ in 0..20 {
            let (contents, took) = newest(&store, id).await;
            assert_eq!(contents, ["3", "4"]);
            others.push(took);
            tokio::time::sleep(Duration::from_millis(60)).await; // while it is tried again
        }
        others.sort_unstable();
        assert!(others[15] < Duration::from_millis(100), "{others:?}");
        proxy.set(Mode::Pass).await;
    }
    until_used(&store, id).await;
    store.close(Instant::now() + PATIENCE).await;
    bed.close().await;
    replica.drop_all().await;
}
