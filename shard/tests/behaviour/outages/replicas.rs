//! Replicas that are behind, hang, or are gone.

use std::time::{Duration, Instant};

use backscroll_shard::ids::{ConversationId, ShardName};
use backscroll_shard::model::Position;
use backscroll_shard::settings::DatabaseUrl;
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
    for table in ["conversations", "messages", "identity"] {
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
