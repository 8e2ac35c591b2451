//! Whatever happens to nodes, Redis and readers, everybody ends with the log (INV-PUSH, INV-ACK).
//!
//! Two nodes on the SQL server and a Redis of the test's own; followers keep to the protocol, send, edit and delete at
//! random, and stop reading now and then. Meanwhile Redis is killed and started again, nodes are killed and drained, and
//! one in a hundred pushes is lost. In the end nobody fetches anything any more: what each follower was told has to be what
//! is stored, and what was acknowledged has to be there.
//!
//! `BACKSCROLL_LEDGER_SECONDS=180 BACKSCROLL_LEDGER_CLIENTS=200 cargo test -p backscroll --test cli ledger` runs it for
//! longer than the tests do.

mod follower;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backscroll::auth::{AuthSettings, Secret, mint_token};
use backscroll_shard::ids::UserId;
use backscroll_testkit::TestDatabases;
use rand::RngExt as _;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{Sandbox, Server};
use crate::own_redis::OwnRedis;
use follower::{Follower, Log, Nodes, Phase, Rest};

/// How many members a conversation has.
const MEMBERS: usize = 10;
/// How long everybody has to be told of what was said last.
const SETTLE: Duration = Duration::from_secs(60);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_ends_with_the_log() {
    let clients = usize::try_from(setting("BACKSCROLL_LEDGER_CLIENTS", 60)).unwrap();
    let chaos = Duration::from_secs(setting("BACKSCROLL_LEDGER_SECONDS", 25));
    let databases = TestDatabases::create(3).await;
    let mut redis = OwnRedis::start(&[]);
    let sandbox = Sandbox::new()
        .on_databases(&databases.urls())
        .with(
            "BACKSCROLL_REDIS__URL",
            format!("redis://127.0.0.1:{}", redis.port()),
        )
        .with("BACKSCROLL_LOSE_PUSHES", "0.01")
        .with("BACKSCROLL_REALTIME__DRAIN_WINDOW", "2s")
        .with("BACKSCROLL_REALTIME__AUDIT_INTERVAL", "3s")
        .with("BACKSCROLL_REALTIME__HEARTBEAT", "5s")
        .with("BACKSCROLL_REALTIME__QUEUE_BYTES", "65536");
    sandbox.run(&["migrate"]).exits(0);
    let mut nodes = [start(&sandbox), start(&sandbox)];
    let addresses: Nodes = Arc::new(Mutex::new(nodes.iter().map(Server::url).collect()));

    let users: Vec<(String, String)> = (0..clients)
        .map(|n| format!("user{n}"))
        .map(|user| (user.clone(), token(&user)))
        .collect();
    let rest = Rest::new(Arc::clone(&addresses));
    let conversations = create(&rest, &users).await;
    let (phase, phases) = watch::channel(Phase::Talk);
    let finished = Arc::new(AtomicUsize::new(0));
    let mut followers = JoinSet::new();
    for (n, (user, token)) in users.iter().enumerate() {
        let mine: Vec<String> = conversations
            .iter()
            .filter(|(_, members)| members.contains(&n))
            .map(|(id, _)| id.clone())
            .collect();
        let follower = Follower::new((user, token), mine, rest.clone(), Arc::clone(&finished));
        followers.spawn(follower.follow(phases.clone()));
    }

    let until = Instant::now() + chaos;
    while Instant::now() < until {
        let pause = Duration::from_millis(rand::rng().random_range(500..2500));
        tokio::time::sleep(pause).await;
        let victim = rand::rng().random_range(0..2);
        match rand::rng().random_range(0..4) {
            0 => {
                redis.kill();
                tokio::time::sleep(Duration::from_secs(2)).await;
                redis.restart();
            }
            1 | 2 => {
                nodes[victim].kill();
                nodes[victim] = start(&sandbox);
            }
            _ => {
                let drained = std::mem::replace(&mut nodes[victim], start(&sandbox));
                *addresses.lock().unwrap() = nodes.iter().map(Server::url).collect();
                tokio::task::block_in_place(|| drained.stop());
            }
        }
        *addresses.lock().unwrap() = nodes.iter().map(Server::url).collect();
    }
    phase.send(Phase::Finish).unwrap();
    // When what each was doing is acknowledged, nobody does anything more.
    let patience = Instant::now() + SETTLE;
    while finished.load(Ordering::Relaxed) < clients {
        assert!(
            Instant::now() < patience,
            "somebody waits for an answer for ever"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let deadline = Instant::now() + SETTLE;
    let stored = stored(&rest, &users, &conversations, &phase, deadline).await;
    let mut told = Vec::new();
    while let Some(follower) = followers.join_next().await {
        told.push(follower.unwrap());
    }
    let (mut acknowledged, mut reconnects, mut resyncs) = (0, 0, 0);
    for follower in &told {
        let log = &stored[&follower.conversations[0]];
        assert!(!log.is_empty());
        for id in &follower.conversations {
            assert_eq!(
                difference(&follower.logs[id], &stored[id]),
                Vec::<String>::new(),
                "{} in {id}",
                follower.user
            );
        }
        for (id, seq, text) in &follower.acknowledged {
            let version = stored[id].get(seq);
            let first = version.map(|version| version.client_msg_id.as_deref());
            assert_eq!(
                first,
                Some(Some(text.as_str())),
                "acknowledged as {id}-{seq}"
            );
        }
        acknowledged += follower.acknowledged.len();
        reconnects += follower.reconnects;
        resyncs += follower.resyncs;
    }
    let messages: usize = stored.values().map(BTreeMap::len).sum();
    println!(
        "{clients} followers, {messages} messages, {acknowledged} acknowledged, {reconnects} reconnects, {resyncs} resyncs"
    );
    assert!(acknowledged > clients, "they did send");
    assert!(reconnects > clients / 2, "they did reconnect");
    drop(nodes);
    databases.drop_all().await;
}

/// Where a follower's log differs from what is stored.
fn difference(told: &Log, stored: &Log) -> Vec<String> {
    let seqs: std::collections::BTreeSet<&u64> = told.keys().chain(stored.keys()).collect();
    seqs.into_iter()
        .filter(|seq| told.get(seq) != stored.get(seq))
        .map(|seq| {
            format!(
                "{seq}: told {:?}, stored {:?}",
                told.get(seq),
                stored.get(seq)
            )
        })
        .collect()
}

/// Every conversation as it is stored, once all followers were told as much, or `deadline` has passed.
async fn stored(
    rest: &Rest,
    users: &[(String, String)],
    conversations: &[(String, Vec<usize>)],
    phase: &watch::Sender<Phase>,
    deadline: Instant,
) -> BTreeMap<String, Log> {
    let mut stored = BTreeMap::new();
    for (id, members) in conversations {
        stored.insert(id.clone(), rest.load(&users[members[0]].1, id).await.0);
    }
    phase
        .send(Phase::Settle(Arc::new(stored.clone()), deadline))
        .unwrap();
    stored
}

/// Conversations that overlap, so that everybody is in two.
async fn create(rest: &Rest, users: &[(String, String)]) -> Vec<(String, Vec<usize>)> {
    let mut conversations = Vec::new();
    for first in (0..users.len()).step_by(MEMBERS / 2) {
        let members: Vec<usize> = (first..first + MEMBERS).map(|n| n % users.len()).collect();
        let others: Vec<&String> = members[1..].iter().map(|n| &users[*n].0).collect();
        let new = json!({"kind": "group", "members": others});
        let created = rest
            .post(&users[members[0]].1, "/chat/conversations", &new)
            .await;
        conversations.push((created["id"].as_str().unwrap().to_owned(), members));
    }
    conversations
}

pub(crate) fn token(user: &str) -> String {
    let settings = AuthSettings {
        secret: Secret::new("0123456789abcdef0123456789abcdef"),
        ..AuthSettings::default()
    };
    let user = UserId::new(user).unwrap();
    mint_token(&settings, &user, None, Duration::from_secs(7200)).unwrap()
}

fn start(sandbox: &Sandbox) -> Server {
    tokio::task::block_in_place(|| sandbox.serve(&[], 1))
}
