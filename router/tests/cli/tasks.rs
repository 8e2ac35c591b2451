//! Tasks that end: the service notices, names them, and serves again; or it ends, in time and with a reason.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use backscroll_testkit::{Mode, Proxy, TestDatabases, redis_url, socket_address};
use serde_json::Value;

use crate::harness::{Connection, PATIENCE, Sandbox, Server};

/// How often a task panics, one run after the other: the last pauses are long enough to be seen.
const PANICS: usize = 4;
/// How many services run at once.
const AT_ONCE: usize = 8;

/// A service with every task that one with users' own tokens has.
fn with_redis() -> Sandbox {
    let prefix = format!("tasks-{:016x}", rand::random::<u64>());
    Sandbox::new()
        .with_one_shard()
        .with("BACKSCROLL_REDIS__URL", redis_url())
        .with("BACKSCROLL_REDIS__PREFIX", prefix)
}

/// A service with an issuer of tokens.
fn with_issuer() -> Sandbox {
    // The key of RFC 8037, appendix A.
    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let sandbox = Sandbox::new().with_one_shard();
    let keys = sandbox.write("jwks.json", KEYS);
    sandbox
        .with("BACKSCROLL_AUTH__ALGORITHM", "EdDSA")
        .with("BACKSCROLL_AUTH__JWKS_FILE", keys.to_str().unwrap())
}

/// The names of all tasks, as the supervisor has them.
fn names(sandbox: &Sandbox) -> BTreeSet<String> {
    let server = sandbox.serve(&[], 1);
    let (_, metrics) = server.connect().get("/metrics").unwrap();
    let gauge = |line: &str| {
        let rest = line.strip_prefix("backscroll_task_up{task=\"")?;
        rest.strip_suffix("\"} 1").map(str::to_owned)
    };
    server.stop();
    metrics.lines().filter_map(gauge).collect()
}

/// What `/readyz` says, over a connection that is made anew when it has to be.
fn readyz(connection: &mut Connection) -> Option<(u16, Value)> {
    let (status, body) = connection.get("/readyz").ok()?;
    Some((status, serde_json::from_str(&body).unwrap()))
}

fn is_named(answer: &Value, task: &str) -> bool {
    let down = answer["tasks"]["down"].as_array().unwrap();
    down.iter().any(|name| name == task)
}

/// A service whose `task` panics again and again, which is named while it is down, until it runs for good.
fn recovered(sandbox: &Sandbox, task: &str) -> Server {
    let server = sandbox.serve(&[], 1);
    let mut connection = server.connect();
    let until = Instant::now() + PATIENCE;
    let ends = format!("backscroll_task_ends_total{{task=\"{task}\",how=\"panic\"}} {PANICS}\n");
    let mut was_named = false;
    loop {
        assert!(Instant::now() < until, "{task}: {was_named}");
        thread::sleep(Duration::from_millis(10));
        let Some((status, answer)) = readyz(&mut connection) else {
            continue;
        };
        if is_named(&answer, task) {
            assert_eq!((status, &answer["status"]), (503, &"unavailable".into()));
            was_named = true;
        } else if was_named && connection.get("/metrics").unwrap().1.contains(&ends) {
            assert_eq!((status, &answer["tasks"]["ok"]), (200, &true.into()));
            break;
        }
    }
    let log = sandbox.log();
    let ends = log.lines().filter(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["level"] == "ERROR" && line["task"] == task && line["why"] == "panic: as a test asks"
    });
    assert_eq!(ends.count(), PANICS, "{log}");
    server
}

/// Somebody sends a message and reads it.
fn serves(sandbox: &Sandbox, server: &Server) {
    let token = sandbox.run(&["token", "--user", "alice"]).exits(0).stdout;
    let mut connection = server.connect().with_token(token.trim());
    let group = r#"{"kind":"group","members":["bob"],"title":"t"}"#;
    let (status, created) = connection.post("/chat/conversations", group).unwrap();
    assert_eq!(status, 201, "{created}");
    let created: Value = serde_json::from_str(&created).unwrap();
    let id = created["id"].as_str().unwrap();
    let path = format!("/chat/conversations/{id}/messages");
    let (status, sent) = connection.post(&path, r#"{"content":"well"}"#).unwrap();
    assert_eq!(status, 201, "{sent}");
    let (status, page) = connection.get(&path).unwrap();
    assert!(status == 200 && page.contains("well"), "{status} {page}");
}

fn kill_each(
    sandbox: impl Fn() -> Sandbox + Sync,
    tasks: BTreeSet<String>,
    works: fn(&Sandbox, &Server),
) {
    let tasks = Mutex::new(VecDeque::from_iter(tasks));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(task) = { tasks.lock().unwrap().pop_front() } {
                    let fault = format!("{task}:{PANICS}");
                    let sandbox = sandbox().with("BACKSCROLL_PANIC_TASK", fault);
                    let server = recovered(&sandbox, &task);
                    works(&sandbox, &server);
                    server.stop();
                }
            });
        }
    });
}

#[test]
fn every_task_that_panics_is_named_and_started_again() {
    let tasks = names(&with_redis());
    for some in [
        "lane/s1/0",
        "relay/s1",
        "accept",
        "signals",
        "redis-publish",
    ] {
        assert!(tasks.contains(some), "{tasks:?}");
    }
    let issuers = names(&with_issuer());
    let only_issuers: BTreeSet<String> = issuers.difference(&tasks).cloned().collect();
    assert_eq!(only_issuers, BTreeSet::from(["jwks-refresh".to_owned()]));
    kill_each(with_redis, tasks, serves);
    kill_each(with_issuer, only_issuers, |_, _| {});
}

#[test]
fn a_task_that_keeps_panicking_ends_the_process() {
    let sandbox = Sandbox::new()
        .with_one_shard()
        .with("BACKSCROLL_PANIC_TASK", "map-refresh:1000");
    let outcome = sandbox.serve(&[], 1).ends();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let log = sandbox.log();
    assert!(
        log.contains("backscroll: the task `map-refresh` has ended too often"),
        "{log}"
    );
}

/// Ends with status 5, and says in its log what kept it.
#[track_caller]
fn stops_late(sandbox: &Sandbox, task: &str) -> Duration {
    let server = sandbox.serve(&[], 1);
    serves(sandbox, &server);
    let begun = Instant::now();
    server.ask_to_stop();
    let outcome = server.ends();
    let log = sandbox.log();
    assert_eq!(outcome.code(), Some(5), "{outcome}: {log}");
    assert!(log.lines().last().unwrap().contains(task), "{log}");
    begun.elapsed()
}

#[test]
fn a_task_that_does_not_end_is_left_behind_and_named() {
    let sandbox = Sandbox::new().with_one_shard();
    let sandbox = sandbox.with("BACKSCROLL_HANG_TASK", "metrics-upkeep");
    assert!(stops_late(&sandbox, "metrics-upkeep") < Duration::from_secs(15));
}

#[test]
fn a_stop_that_takes_too_long_is_cut_short() {
    let sandbox = Sandbox::new()
        .with_one_shard()
        .with("BACKSCROLL_HANG_TASK", "presence") // which is waited for longer than that
        .with("BACKSCROLL_LONGEST_STOP", "2s");
    let took = stops_late(&sandbox, "presence");
    assert!((2..8).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let sandbox = Sandbox::new().with_one_shard();
    let sandbox = sandbox.with("BACKSCROLL_HANG_TASK", "presence");
    let server = sandbox.serve(&[], 1);
    server.ask_to_stop();
    let until = Instant::now() + PATIENCE;
    while !sandbox.log().contains("asked to stop") {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    server.ask_to_stop();
    assert_eq!(server.ends().code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// A database that hangs keeps no stop from its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_not_waited_for() {
    let databases = TestDatabases::create(2).await;
    let mut urls = databases.urls();
    let proxy = Proxy::start(socket_address(&urls[1]));
    urls[1] = proxy.url(&urls[1]);
    let sandbox = Sandbox::new().on_databases(&urls);
    sandbox.run(&["migrate"]).exits(0);
    let server = sandbox.serve(&[], 1);
    serves(&sandbox, &server);
    proxy.set(Mode::Hang).await;
    let token = sandbox.run(&["token", "--user", "alice"]).exits(0).stdout;
    let mut connection = server.connect().with_token(token.trim());
    let group = r#"{"kind":"group","members":["bob"],"title":"t"}"#;
    let (status, answer) = connection.post("/chat/conversations", group).unwrap();
    assert_eq!(status, 503, "{answer}");
    let begun = Instant::now();
    server.ask_to_stop();
    let outcome = server.ends();
    let took = begun.elapsed();
    assert!(matches!(outcome.code(), Some(0 | 5)), "{outcome}");
    assert!(
        took < Duration::from_secs(30),
        "{took:?}: {}",
        sandbox.log()
    );
    drop(proxy);
    databases.drop_all().await;
}
