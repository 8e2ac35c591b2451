//! Tasks that end: the service notices, names them, and serves again; or it ends, in time and with a reason.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use backscroll_shard::metrics::{TASK_ENDS, TASK_UP};
use backscroll_testkit::{Mode, Proxy, TestDatabases, redis_url, socket_address};
use serde_json::Value;

use crate::harness::{Connection, PATIENCE, Sandbox, Server};

/// How often a task panics, one run after the other: as often as it is started again, so that it goes on for several
/// seconds and the last pauses are long.
const PANICS: usize = backscroll_shard::tasks::MOST_RESTARTS as usize;
/// How many tasks of one service panic.
const TOGETHER: usize = 7;

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
        let rest = line
            .strip_prefix(TASK_UP.name())?
            .strip_prefix("{task=\"")?;
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

/// A service whose `tasks` panic again and again, each of which is named while it is down, until all run for good.
fn recovered(sandbox: &Sandbox, tasks: &[String]) -> Server {
    let server = sandbox.serve(&[], 1);
    let mut connection = server.connect();
    let until = Instant::now() + PATIENCE;
    let mut unnamed: BTreeSet<&str> = tasks.iter().map(String::as_str).collect();
    loop {
        assert!(Instant::now() < until, "not named: {unnamed:?}");
        thread::sleep(Duration::from_millis(10));
        let Some((status, answer)) = readyz(&mut connection) else {
            continue;
        };
        let down = answer["tasks"]["down"].as_array().unwrap();
        if !down.is_empty() {
            assert_eq!((status, &answer["status"]), (503, &"unavailable".into()));
            down.iter()
                .for_each(|name| _ = unnamed.remove(name.as_str().unwrap()));
        } else if unnamed.is_empty() && all_counted(&mut connection, tasks) {
            assert_eq!((status, &answer["tasks"]["ok"]), (200, &true.into()));
            break;
        }
    }
    for task in tasks {
        let is_end = |line: &&str| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let (level, why) = (&line["level"], &line["why"]);
            line["task"] == *task && level == "ERROR" && why == "panic: as a test asks"
        };
        while sandbox.log().lines().filter(is_end).count() < PANICS {
            assert!(Instant::now() < until, "{}", sandbox.log()); // a line is written a moment later
            thread::sleep(Duration::from_millis(10));
        }
    }
    server
}

/// Whether each of the tasks has panicked as often as it was to.
fn all_counted(connection: &mut Connection, tasks: &[String]) -> bool {
    let (_, metrics) = connection.get("/metrics").unwrap();
    tasks.iter().all(|task| {
        let (name, labels) = (TASK_ENDS.name(), format!("task=\"{task}\",how=\"panic\""));
        metrics.contains(&format!("{name}{{{labels}}} {PANICS}\n"))
    })
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

fn kill_each(sandbox: fn() -> Sandbox, tasks: BTreeSet<String>, works: fn(&Sandbox, &Server)) {
    let tasks: Vec<String> = tasks.into_iter().collect();
    thread::scope(|scope| {
        for tasks in tasks.chunks(TOGETHER) {
            scope.spawn(move || {
                let faults = tasks.iter().map(|task| format!("{task}:{PANICS}"));
                let faults = faults.collect::<Vec<_>>().join(",");
                let sandbox = sandbox().with("BACKSCROLL_PANIC_TASK", faults);
                let server = recovered(&sandbox, tasks);
                works(&sandbox, &server);
                server.stop();
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
    assert!(matches!(status, 503 | 504), "{status} {answer}");
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
