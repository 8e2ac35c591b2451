//! Redis answers, but refuses: it has become a replica, has no memory left, or does not let the node in.

use std::time::{Duration, Instant};

use backscroll_realtime::bus::{Problem, Roster as _};
use backscroll_realtime::redis::{Redis, RedisSettings};
use backscroll_shard::ids::UserId;
use backscroll_shard::settings::{DatabaseUrl, Span};
use backscroll_shard::tasks::Supervisor;

use crate::bed::{Bed, Node, OwnRedis, Swallower, change, eventually, raw, settings, topic};

/// Sends Redis a command.
async fn tell(url: &str, command: &str) {
    let mut words = command.split(' ');
    let mut sent = redis::cmd(words.next().unwrap());
    for word in words {
        sent.arg(word);
    }
    let mut connection = raw(url).await;
    sent.query_async::<redis::Value>(&mut connection)
        .await
        .unwrap();
}

async fn listening(settings: &RedisSettings) -> Bed {
    let bed = Bed::with(settings).await;
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    assert_eq!(problem(&bed.a).or(problem(&bed.b)), None);
    bed
}

fn problem(node: &Node) -> Option<Problem> {
    node.bus.problem()
}

/// Both nodes say what is wrong.
async fn both_say(bed: &Bed, kind: &str, words: &str, remedy: &str) {
    for node in [&bed.a, &bed.b] {
        eventually(&format!("the problem `{kind}` with {words}"), || {
            problem(node)
                .is_some_and(|problem| problem.kind == kind && problem.said.contains(words))
        })
        .await;
        let text = problem(node).unwrap().to_string();
        assert!(text.contains(remedy), "{text}");
    }
}

/// The end of the problem is seen, and pushes arrive again.
async fn well_again(bed: &Bed) {
    for node in [&bed.a, &bed.b] {
        eventually("there is no problem", || problem(node).is_none()).await;
        node.proven().await;
    }
    bed.b.recorded.clear();
    bed.b.receives_again(&bed.a, &topic(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_becomes_a_replica_is_left_and_found_again() {
    let (redis, other) = (OwnRedis::start(), OwnRedis::start());
    let bed = listening(&settings(&redis.url())).await;
    let interrupted = bed.b.recorded.interruptions();
    let replica_of = format!("REPLICAOF 127.0.0.1 {}", other.address().port());
    tell(&redis.url(), &replica_of).await;
    both_say(&bed, "replica", "replica", "lead to the primary").await;
    // A replica lets publish, but what is published there does not reach the primary's nodes: it proves nothing.
    for node in [&bed.a, &bed.b] {
        eventually("silence", || node.silence() > Duration::from_millis(800)).await;
    }
    tell(&redis.url(), "REPLICAOF NO ONE").await;
    well_again(&bed).await;
    assert!(bed.b.recorded.interruptions() > interrupted);
}

/// As behind a name or a service's address: what was opened before stays with the old primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_primary_behind_the_address_is_found() {
    let (old, new) = (OwnRedis::start(), OwnRedis::start());
    let address = Swallower::start(old.address()).await;
    let bed = listening(&settings(&format!("redis://{}/", address.address))).await;
    bed.b.receives_again(&bed.a, &topic(1)).await;
    address.lead_to(new.address());
    let replica_of = format!("REPLICAOF 127.0.0.1 {}", new.address().port());
    tell(&old.url(), &replica_of).await;
    let opened = address.opened();
    eventually("all connections are replaced", || {
        address.opened() >= opened + 6
    })
    .await;
    well_again(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_is_a_problem_and_goes_on_publishing() {
    let redis = OwnRedis::start();
    let settings = RedisSettings {
        canary_interval: Span::millis(500), // a slow machine is no reason to replace connections
        ..settings(&redis.url())
    };
    let bed = listening(&settings).await;
    let interrupted = bed.b.recorded.interruptions();
    tell(&redis.url(), &format!("SET full {}", "x".repeat(2 << 20))).await;
    tell(&redis.url(), "CONFIG SET maxmemory 1mb").await;
    both_say(&bed, "memory", "OOM", "maxmemory").await;
    bed.b.receives_again(&bed.a, &topic(1)).await;
    bed.a.proven().await;
    assert!(problem(&bed.a).is_some());
    tell(&redis.url(), "CONFIG SET maxmemory 0").await;
    well_again(&bed).await;
    // Its connections were good all the time.
    assert_eq!(bed.b.recorded.interruptions(), interrupted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_is_named_and_a_restored_one_is_taken() {
    let redis = OwnRedis::start();
    let with_password = |password: &str| format!("redis://:{password}@{}/", redis.address());
    tell(&redis.url(), "CONFIG SET requirepass first").await;
    let settings = settings(&with_password("first"));
    let bed = listening(&settings).await;
    let roster = Redis::open(&settings, "node", &Supervisor::default())
        .unwrap()
        .roster();

    tell(&with_password("first"), "CONFIG SET requirepass second").await;
    for kind in ["normal", "pubsub"] {
        tell(
            &with_password("second"),
            &format!("CLIENT KILL TYPE {kind}"),
        )
        .await;
    }
    both_say(&bed, "credentials", "WRONGPASS", "user and password").await;
    let text = problem(&bed.a).unwrap().to_string();
    assert!(!text.contains("first"), "{text}");
    // What needs Redis is refused with the reason.
    let refused = Instant::now();
    let users = [UserId::new("u").unwrap()];
    while !matches!(roster.look_up(&users).await, Err(error) if error.0.contains("WRONGPASS")) {
        assert!(refused.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    tell(&with_password("second"), "CONFIG SET requirepass first").await;
    well_again(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_password_is_named_from_the_start_with_pauses_between_attempts() {
    let redis = OwnRedis::start();
    tell(&redis.url(), "CONFIG SET requirepass secret").await;
    let settings = RedisSettings {
        timeout: Span::millis(200),
        ..settings(&redis.url())
    };
    let bed = Bed {
        a: Node::redis(&settings).into(),
        b: Node::redis(&settings).into(),
    };
    both_say(&bed, "credentials", "NOAUTH", "user and password").await;
    bed.a.bus.publish(&topic(1), &change(1)); // reaches its own sessions
    assert_eq!(bed.a.recorded.revs(&topic(1)), [1]);
    let url = RedisSettings {
        url: Some(DatabaseUrl(format!("redis://:secret@{}/", redis.address()))),
        ..settings.clone()
    };
    let observer = Node::redis(&url).connected().await;
    eventually("five seconds of attempts", || {
        observer.bus.problem().is_none() && bed.a.silence() > Duration::from_secs(5)
    })
    .await;
    let mut connection = raw(&url.url.unwrap().0).await;
    let stats: String = redis::cmd("INFO")
        .arg("stats")
        .query_async(&mut connection)
        .await
        .unwrap();
    let connections = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    let connections: u32 = connections.unwrap().parse().unwrap();
    // Six lines with pauses of 0.05 s, doubled up to 5 s, and some seconds more on a busy machine.
    assert!(connections < 6 * 15, "{connections} connections");

    tell(
        &format!("redis://:secret@{}/", redis.address()),
        "CONFIG SET requirepass ",
    )
    .await;
    bed.b.bus.unsubscribe(&topic(1));
    for node in [&bed.a, &bed.b] {
        node.proven().await;
    }
    bed.b.bus.subscribe(topic(1)).await.unwrap();
    well_again(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_without_rights_is_named() {
    let redis = OwnRedis::start();
    let bed = listening(&settings(&redis.url())).await;
    for (taken, given) in [
        ("-publish", "+publish"),
        ("-@write", "+@write"),
        ("-subscribe", "+subscribe"),
    ] {
        tell(&redis.url(), &format!("ACL SETUSER default {taken}")).await;
        if taken == "-subscribe" {
            tell(&redis.url(), "CLIENT KILL TYPE pubsub").await;
        }
        both_say(&bed, "permission", "NOPERM", "publish, subscribe").await;
        tell(&redis.url(), &format!("ACL SETUSER default {given}")).await;
        well_again(&bed).await;
    }
}
