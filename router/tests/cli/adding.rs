//! `backscroll shards add`, as an operator meets it.

use std::time::{Duration, Instant};

use backscroll_testkit::TestDatabases;

use crate::harness::{PATIENCE, Sandbox, get};
use crate::import::history;
use crate::rebalance::{export, ranges, rebalance};

/// With a shard more in the configuration.
fn with_shard(sandbox: Sandbox, position: usize, name: &str, url: &str) -> Sandbox {
    sandbox
        .with(&format!("BACKSCROLL_SHARDS__{position}__NAME"), name)
        .with(&format!("BACKSCROLL_SHARDS__{position}__PRIMARY"), url)
}

#[test]
fn a_shard_is_added_embedded() {
    let mut sandbox = Sandbox::new().with(
        "BACKSCROLL_DIRECTORY__URL",
        "sqlite://backscroll-data/directory.db",
    );
    for number in 1..=2 {
        let url = format!("sqlite://backscroll-data/db{number}.db");
        sandbox = with_shard(sandbox, number - 1, &format!("db{number}"), &url);
    }
    added(sandbox, "sqlite://backscroll-data/db3.db");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_added_on_databases() {
    let databases = TestDatabases::create(4).await;
    let urls = databases.urls();
    added(Sandbox::new().on_databases(&urls[..3]), &urls[3]);
    databases.drop_all().await;
}

/// Adds `db3` with the database at `url` to the shards `db1` and `db2`.
fn added(sandbox: Sandbox, url: &str) {
    sandbox.run(&["migrate"]).exits(0);
    let import = sandbox.pipe(&["import", "-", "--json"], history(200, 4).as_bytes());
    let summary = import.exits(0).json();
    let listed = summary["conversations"].as_array().unwrap();
    let ids: Vec<String> = listed
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    let before = export(&sandbox, &ids);

    let add = ["shards", "add", "db3", "--reason", "more room"];
    let unknown = sandbox.run(&add).exits(1);
    let words = "there is no shard `db3`; there are db1, db2";
    assert!(unknown.stderr.contains(words), "{unknown:#?}");

    let sandbox = with_shard(sandbox, 2, "db3", url);
    let server = sandbox.serve(&[], 1);
    let planned = sandbox.run(&["shards", "add", "db3", "--dry-run"]).exits(0);
    let words =
        "(empty) would become the database of the new shard db3, incarnation 1\nnothing was done";
    assert!(planned.stdout.contains(words), "{planned:#?}");
    sandbox.run(&["shards", "add", "db3"]).exits(2); // without a reason
    let refused = [
        "rebalance",
        "run",
        "--range",
        "0..5",
        "--to",
        "db3",
        "--reason",
        "x",
    ];
    sandbox.run(&refused).exits(1);

    // Killed on the way, and run again.
    let mut killed = sandbox.command(&add);
    killed.env("BACKSCROLL_ABORT_AT", "shard-marked");
    assert!(!killed.status().unwrap().success());
    let remark = sandbox.run(&["doctor"]).exits(0).stdout;
    assert!(remark.contains("adding shard db3 was begun"), "{remark}");
    assert_eq!(export(&sandbox, &ids), before);
    let done = sandbox.run(&add).exits(0);
    let words = "is the database of the new shard db3, incarnation 2\n";
    assert!(done.stdout.contains(words), "{done:#?}");
    let again = sandbox
        .run(&[&add[..], &["--json"]].concat())
        .exits(0)
        .json();
    assert_eq!(
        (&again["isJoined"], &again["incarnation"]),
        (&true.into(), &2.into())
    );

    // The server that was started before goes on with what is moved there.
    let range = [
        "run",
        "--range",
        "..9223372036854775808",
        "--to",
        "db3",
        "--reason",
        "x",
    ];
    assert_eq!(rebalance(&sandbox, &range, 0)["state"], "draining");
    assert_eq!(ranges(&sandbox, &"db3".into()), [(0, Some(1 << 63))]);
    assert_eq!(export(&sandbox, &ids), before);
    // It looks for new shards with the map, once a second.
    let until = Instant::now() + PATIENCE;
    loop {
        let (status, body) = get(&format!("{}/readyz", server.url()), "");
        assert_eq!(status, 200, "{body:#}");
        if body["shards"].as_array().unwrap().len() == 3 {
            break;
        }
        assert!(Instant::now() < until, "{body:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.stop();
    let status = sandbox.run(&["archive", "status", "--shard", "db3", "--json"]);
    let status = status.exits(0).json();
    let jobs = status[0]["jobs"].as_array().unwrap();
    let is_add = |kind: &str, reason: &str| {
        jobs.iter()
            .any(|job| job["kind"] == kind && job["reason"] == reason)
    };
    assert!(is_add("add", "more room"), "{status:#}");
}
