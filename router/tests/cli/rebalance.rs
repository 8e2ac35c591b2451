//! `backscroll rebalance`, as an operator meets it.

use backscroll_testkit::TestDatabases;
use serde_json::Value;

use crate::harness::{Sandbox, get};
use crate::import::history;

const WHY: [&str; 2] = ["--reason", "to see"];

#[test]
fn a_range_is_moved_by_hand_embedded() {
    moved_by_hand(&Sandbox::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_moved_by_hand_on_databases() {
    let databases = TestDatabases::create(3).await;
    let sandbox = Sandbox::new().on_databases(&databases.urls());
    sandbox.run(&["migrate"]).exits(0);
    moved_by_hand(&sandbox);
    drop(sandbox);
    databases.drop_all().await;
}

pub(crate) fn rebalance(sandbox: &Sandbox, arguments: &[&str], code: i32) -> Value {
    let arguments = [&["rebalance"], arguments, &["--json"]].concat();
    let outcome = sandbox.run(&arguments).exits(code);
    if code == 0 {
        outcome.json()
    } else {
        Value::Null
    }
}

pub(crate) fn export(sandbox: &Sandbox, conversations: &[String]) -> Vec<String> {
    let export = |id: &String| {
        sandbox
            .run(&["export", "--conversation", id])
            .exits(0)
            .stdout
    };
    conversations.iter().map(export).collect()
}

/// Where a shard's ranges begin and end, as `shards list` shows them.
pub(crate) fn ranges(sandbox: &Sandbox, shard: &Value) -> Vec<(u64, Option<u64>)> {
    let listed = sandbox.run(&["shards", "list", "--json"]).exits(0).json();
    let mut all = listed.as_array().unwrap().iter();
    let of = all.find(|it| it["name"] == *shard).unwrap();
    let range = |it: &Value| {
        (
            it["range"]["start"].as_u64().unwrap(),
            it["range"]["end"].as_u64(),
        )
    };
    of["ranges"].as_array().unwrap().iter().map(range).collect()
}

fn moved_by_hand(sandbox: &Sandbox) {
    let import = sandbox.pipe(&["import", "-", "--json"], history(300, 5).as_bytes());
    let summary = import.exits(0).json();
    let listed = summary["conversations"].as_array().unwrap();
    let ids: Vec<String> = listed
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    let before = export(sandbox, &ids);
    let shards = sandbox.run(&["shards", "list", "--json"]).exits(0).json();
    let (first, second) = (&shards[0]["name"], &shards[1]["name"]);
    let (from, to) = (first.as_str().unwrap(), second.as_str().unwrap());
    assert_eq!(rebalance(sandbox, &["status"], 0), Value::Array(vec![]));

    // Mistakes cost an error that says what would be right.
    let wrong: [(&[&str], &str); 5] = [
        (
            &["run", "--range", "5", "--to", to, "--reason", "x"],
            "two keys with two dots",
        ),
        (
            &["run", "--range", "0..5", "--to", from, "--reason", "x"],
            "already",
        ),
        (
            &["run", "--range", "0..5", "--to", "nowhere", "--reason", "x"],
            "nowhere",
        ),
        (
            &["run", "--range", "..", "--to", to, "--reason", "x"],
            "not within one range",
        ),
        (
            &["abort", "0f8c61a2b4d94b7e05d2f0a1c3b6e788", "--reason", "x"],
            "no such move",
        ),
    ];
    for (arguments, words) in wrong {
        let outcome = sandbox.run(&[&["rebalance"], arguments].concat());
        assert_ne!(outcome.code, 0, "{arguments:?}");
        assert!(
            outcome.stderr.contains(words),
            "{words} is not in: {}",
            outcome.stderr
        );
    }

    // All of a shard's range, then part of it back.
    let (start, end) = ranges(sandbox, first)[0];
    let range = format!(
        "{start}..{}",
        end.map_or(String::new(), |end| end.to_string())
    );
    let moved = rebalance(
        sandbox,
        &[&["run", "--range", &range, "--to", to], &WHY[..]].concat(),
        0,
    );
    assert_eq!(moved["state"], "draining", "{moved}");
    assert!(ranges(sandbox, first).is_empty());
    assert_eq!(export(sandbox, &ids), before);
    let status = rebalance(sandbox, &["status"], 0);
    let doing = status[0]["doing"].as_str().unwrap();
    assert!(
        doing.starts_with(&format!("served by {to}, {from} keeps its rows until")),
        "{doing}"
    );
    let id = moved["id"].as_str().unwrap();
    let refused = sandbox
        .run(&[&["rebalance", "abort", id], &WHY[..]].concat())
        .exits(1);
    assert!(refused.stderr.contains("reverse"), "{}", refused.stderr);

    let back = rebalance(sandbox, &[&["reverse", id], &WHY[..]].concat(), 0);
    assert_eq!((&back["source"], &back["target"]), (second, first));
    assert_eq!(ranges(sandbox, first), [(start, end)]);
    assert_eq!(export(sandbox, &ids), before);
    let told = rebalance(sandbox, &["history", id], 0);
    assert_eq!(told["state"], "reversed");
    let events = told["events"].as_array().unwrap();
    assert!(events.iter().any(|it| it["event"] == "committed"), "{told}");
    sandbox.run(&["rebalance", "history"]).exits(0);
    sandbox.run(&["rebalance", "status"]).exits(0);

    // Put down only: a server does it. One that is given up before leaves nothing.
    let cut = start + 1_000_000;
    let part = format!("{start}..{cut}");
    let run = [&["run", "--range", &part, "--to", to, "--detach"], &WHY[..]].concat();
    let refused = sandbox.run(&[&["rebalance"], &run[..]].concat()).exits(1);
    assert!(
        refused.stderr.contains("one move at a time"),
        "the source still keeps rows: {}",
        refused.stderr
    );
}

/// A new shard gets its part by the plan; then the ranges that were cut are one again.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_printed_and_carried_out() {
    let databases = TestDatabases::create(4).await;
    let urls = databases.urls();
    let sandbox = Sandbox::new().on_databases(&urls[..3]);
    sandbox.run(&["migrate"]).exits(0);
    for seed in 0..6 {
        let other = |name: &str| format!("{seed} {name}");
        let data = ["general", "zig", "caf"]
            .into_iter()
            .fold(history(40, seed), |data, name| {
                data.replace(name, &other(name))
            });
        sandbox
            .pipe(&["import", "-", "--json"], data.as_bytes())
            .exits(0);
    }
    let sandbox = sandbox
        .on_databases(&urls)
        .with("BACKSCROLL_REBALANCE__KEEP", "0s")
        .with("BACKSCROLL_REBALANCE__MAX_LATENCY", "60s");
    sandbox
        .run(&["shards", "add", "db3", "--reason", "more room"])
        .exits(0);
    let plan = ["plan", "--observe", "0s"];
    let told = sandbox.run(&[&["rebalance"], &plan[..]].concat()).exits(0);
    assert!(
        told.stdout.contains("GAIN") && told.stdout.ends_with("nothing was done\n"),
        "{told:#?}"
    );
    assert!(
        told.stderr.contains("no move was measured yet"),
        "{told:#?}"
    );
    let planned = rebalance(&sandbox, &plan, 0);
    let steps = planned["steps"].as_array().unwrap();
    assert!(steps.iter().any(|it| it["target"] == "db3"), "{planned:#}");
    let run = ["run", "--plan", "--observe", "0s", "--reason", "db3 is new"];
    let moves = rebalance(&sandbox, &run, 0);
    let moves = moves.as_array().unwrap();
    assert_eq!(moves.len(), steps.len());
    for (step, job) in steps.iter().zip(moves) {
        assert_eq!(
            (&step["range"], &step["target"]),
            (&job["range"], &job["target"])
        );
    }
    assert!(!ranges(&sandbox, &"db3".into()).is_empty());
    let kept = rebalance(&sandbox, &plan, 0);
    assert_eq!(kept["steps"], Value::Array(Vec::new()), "{kept:#}");
    for wrong in [
        &["run", "--reason", "x"][..],
        &["run", "--plan", "--split", "--reason", "x"],
        &["plan", "--observe", "1h"],
    ] {
        sandbox.run(&[&["rebalance"], wrong].concat()).exits(2);
    }
    drop(sandbox);
    databases.drop_all().await;
}

/// A move that was put down while nobody serves is done by the next server.
#[test]
fn a_server_does_what_was_put_down() {
    let sandbox = Sandbox::new();
    let import = sandbox.pipe(&["import", "-", "--json"], history(100, 3).as_bytes());
    let listed = import.exits(0).json()["conversations"]
        .as_array()
        .unwrap()
        .clone();
    let ids: Vec<String> = listed
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    let before = export(&sandbox, &ids);
    let run = [
        "run",
        "--range",
        "0..1000000",
        "--to",
        "shard3",
        "--detach",
        "--reason",
        "x",
    ];
    let given_up = rebalance(&sandbox, &run, 0);
    let id = given_up["id"].as_str().unwrap();
    rebalance(&sandbox, &["pause", id, "--reason", "lunch"], 0);
    let told = sandbox.run(&["rebalance", "explain", id]).exits(0).stdout;
    assert_eq!(told, "paused: paused: lunch\n");
    let throttle = ["throttle", id, "--rows-per-second", "7", "--reason", "peak"];
    assert_eq!(rebalance(&sandbox, &throttle, 0)["throttle"], 7);
    sandbox
        .run(&["rebalance", "throttle", id, "--reason", "x"])
        .exits(2);
    let told = rebalance(&sandbox, &["explain", id], 0);
    assert_eq!(
        (&told["explanation"]["name"], &told["explanation"]["why"]),
        (&"paused".into(), &"lunch".into())
    );
    let status = rebalance(&sandbox, &["status"], 0);
    assert_eq!(status[0]["explanation"], told["explanation"], "{status:#}");
    rebalance(&sandbox, &["resume", id, "--reason", "x"], 0);
    assert_eq!(
        rebalance(&sandbox, &["abort", id, "--reason", "x"], 0)["state"],
        "aborting"
    );
    let server = sandbox.serve(&[], 1);
    wait_for(&sandbox, id, "aborted");
    let again = rebalance(&sandbox, &run, 0);
    let again = again["id"].as_str().unwrap();
    // Watched from elsewhere, slow enough to be seen, until nothing moves.
    rebalance(
        &sandbox,
        &[
            "throttle",
            again,
            "--rows-per-second",
            "40",
            "--reason",
            "to see",
        ],
        0,
    );
    let watched = sandbox
        .run(&["rebalance", "status", "--watch"])
        .exits(0)
        .stdout;
    let last = watched.lines().last().unwrap();
    assert_eq!(last, "no range is being moved", "{watched}");
    assert!(
        watched.contains(again) && watched.contains("shard3 serves")
            || watched.contains("served by shard3"),
        "{watched}"
    );
    wait_for(&sandbox, again, "draining");
    assert_eq!(get(&format!("{}/readyz", server.url()), "").0, 200);
    server.stop();
    assert_eq!(export(&sandbox, &ids), before);
    let list = ranges(&sandbox, &Value::from("shard3"));
    assert!(list.contains(&(0, Some(1_000_000))), "{list:?}");
}

fn wait_for(sandbox: &Sandbox, id: &str, state: &str) {
    let until = std::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        let job = rebalance(sandbox, &["history", id], 0);
        if job["state"] == state {
            return;
        }
        assert!(std::time::Instant::now() < until, "{job:#}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
