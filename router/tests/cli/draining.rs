//! `backscroll shards drain`, as an operator meets it.

use std::time::{Duration, Instant};

use backscroll_testkit::TestDatabases;

use crate::harness::{PATIENCE, Sandbox};
use crate::import::history;
use crate::rebalance::{export, ranges, rebalance};

#[test]
fn a_shard_is_drained_and_taken_out_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let url = |name| format!("sqlite://{}/{name}.db", folder.path().display());
    drained(&["dir", "db1", "db2", "db3"].map(url));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_drained_and_taken_out_on_databases() {
    let databases = TestDatabases::create(4).await;
    drained(&databases.urls());
    databases.drop_all().await;
}

/// Drains `db3` of a directory and three shards.
fn drained(urls: &[String]) {
    let sandbox = Sandbox::new().on_databases(urls);
    let sandbox = sandbox.with("BACKSCROLL_REBALANCE__KEEP", "2s");
    sandbox.run(&["migrate"]).exits(0);
    let import = sandbox.pipe(&["import", "-", "--json"], history(200, 6).as_bytes());
    let summary = import.exits(0).json();
    let listed = summary["conversations"].as_array().unwrap();
    let ids: Vec<String> = listed
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    let before = export(&sandbox, &ids);

    let drain = ["shards", "drain", "db3"];
    sandbox.run(&drain).exits(2); // without a reason
    let with = |more: &[&'static str]| [&drain[..], more].concat();
    for (more, words) in [
        (&["--to", "db9", "--dry-run"], "there is no shard `db9`"),
        (
            &["--to", "db3", "--dry-run"],
            "db3 is the shard that is drained",
        ),
    ] {
        let refused = sandbox.run(&with(more)).exits(1);
        assert!(refused.stderr.contains(words), "{refused:#?}");
    }
    let planned = sandbox.run(&with(&["--dry-run"])).exits(0).stdout;
    assert!(
        planned.contains(".. would go to db1\nnothing was done"),
        "{planned}"
    );

    // An earlier run was killed when it had put a move down: this one goes on with it.
    let start = ranges(&sandbox, &"db3".into())[0].0;
    let cut = format!("{start}..{}", start + (1 << 61));
    let begun = [
        "run", "--range", &cut, "--to", "db2", "--reason", "x", "--detach",
    ];
    let begun = rebalance(&sandbox, &begun, 0);
    let told = sandbox
        .run(&with(&["--reason", "given back", "--json"]))
        .exits(0)
        .json();
    let moves = told["moves"].as_array().unwrap();
    assert_eq!(moves.len(), 2, "{told:#}");
    assert_eq!(moves[0]["id"], begun["id"], "{told:#}");
    assert_eq!(
        (&moves[1]["target"], &moves[1]["reason"]),
        (&"db1".into(), &"given back".into())
    );
    assert!(
        told["rowsKeptUntil"].is_string() && told["isRemovable"] == false,
        "{told:#}"
    );
    assert!(ranges(&sandbox, &"db3".into()).is_empty());

    // A server deletes the rows.
    let server = sandbox.serve(&[], 1);
    let until = Instant::now() + PATIENCE;
    while rebalance(&sandbox, &["status"], 0) != serde_json::Value::Array(Vec::new()) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
    server.stop();
    let done = sandbox
        .run(&with(&["--reason", "given back"]))
        .exits(0)
        .stdout;
    assert!(
        done.contains("its database may be taken out of the configuration\n"),
        "{done}"
    );

    let without = Sandbox::new().on_databases(&urls[..3]);
    without.serve(&[], 1).stop();
    assert_eq!(export(&without, &ids), before);
}
