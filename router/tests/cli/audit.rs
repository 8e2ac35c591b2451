//! The audit log, as an operator meets it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::harness::{PATIENCE, Sandbox};
use crate::import::history;

fn records(sandbox: &Sandbox, filter: &[&str]) -> Vec<Value> {
    let list = [&["audit", "list", "--json"], filter].concat();
    let listed = sandbox.run(&list).exits(0).json();
    listed.as_array().unwrap().clone()
}

/// Somebody writes the directory's file by other means.
fn plant(sandbox: &Sandbox, statement: &'static str) {
    let file = sandbox.path("backscroll-data/directory.db");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(Path::new(&file));
        let mut connection = options.connect().await.unwrap();
        let done = sqlx::query(statement).execute(&mut connection).await;
        assert!(done.unwrap().rows_affected() > 0, "{statement}");
        connection.close().await.unwrap();
    });
}

#[test]
fn what_operators_do_is_recorded_and_the_log_is_compared_with_its_heads() {
    let sandbox = Sandbox::new();
    let import = sandbox.pipe(&["import", "-", "--json"], history(50, 1).as_bytes());
    let summary = import.exits(0).json();
    let id = summary["conversations"][0]["id"].as_str().unwrap();
    assert_eq!(records(&sandbox, &[]), Vec::<Value>::new());

    let hold = [
        "archive",
        "hold",
        "--conversation",
        id,
        "--reason",
        "case 7",
    ];
    sandbox.run(&hold).exits(0);
    let lift = [&hold[..], &["--lift"]].concat();
    sandbox.run(&lift).exits(0);
    sandbox.run(&["archive", "run", "--dry-run"]).exits(0);
    sandbox
        .run(&["archive", "run", "--reason", "disk", "--shard", "shard1"])
        .exits(0);
    sandbox.run(&["archive", "verify"]).exits(0);
    let export = ["export", "--conversation", id, "--reason", "court order 3"];
    sandbox.run(&export).exits(0);
    let of_conversation = format!("conversation/{id}");
    let told: Vec<Value> = records(&sandbox, &[])
        .iter()
        .rev()
        .map(|it| json!([it["action"], it["subject"], it["reason"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["hold.place", of_conversation, "case 7"]),
            json!(["hold.lift", of_conversation, "case 7"]),
            json!(["archive.run", "shard/shard1", "disk"]),
            json!(["content.read", of_conversation, "court order 3"]),
        ]
    );

    // A node records its start, and puts the head of the log into the object store.
    let sandbox = sandbox.with("BACKSCROLL_LIMITS__MENTIONS", "7");
    let server = sandbox.serve(&[], 1);
    let until = Instant::now() + PATIENCE;
    let verified = loop {
        let verified = sandbox.run(&["audit", "verify", "--json"]).exits(0).json();
        let started = records(&sandbox, &["--action", "node.start"]);
        if verified["publishedHeads"] != 0 && !started.is_empty() {
            let details = &started[0]["details"];
            assert_eq!(details["differences"]["limits.mentions"], 7);
            break verified;
        }
        assert!(Instant::now() < until, "{verified:#}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(verified["problemCount"], 0);
    server.stop();

    let erase = ["audit", "erase", "--user", "nobody", "--reason", "x"];
    let erased = sandbox.run(&erase).exits(0).stdout;
    assert_eq!(erased, "0 records erased\n");
    plant(
        &sandbox,
        "UPDATE audit SET reason = 'another' WHERE number = 2",
    );
    let found = sandbox.run(&["audit", "verify"]).exits(1);
    let words = "record 2: what it says was changed\n";
    assert!(found.stdout.starts_with(words), "{found:#?}");
    // The log is begun anew.
    plant(&sandbox, "DELETE FROM audit");
    plant(
        &sandbox,
        "UPDATE properties SET value = '' WHERE name = 'audit_head'",
    );
    let found = sandbox.run(&["audit", "verify"]).exits(1).stdout;
    let words = "the log ends with record 0, and the object audit/";
    assert!(found.starts_with(words), "{found}");
}
