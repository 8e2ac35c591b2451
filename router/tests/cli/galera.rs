//! A shard on a Galera cluster of three nodes: one of them writes it, and when that one is lost, nothing is that was acknowledged.
//!
//! `make test-galera` starts the nodes.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};
use tokio::task::JoinSet;

use crate::crash::{Sender, assert_kept, create, read_back, send_until_cut, start, token};
use crate::harness::{PATIENCE, Sandbox, Server};

const SENDERS: usize = 4;

/// The nodes, each with its address and its process.
fn nodes() -> Vec<(String, u32)> {
    let words = |name: &str| {
        let value = std::env::var(name);
        let value = value.unwrap_or_else(|_| panic!("{name} is not set: run `make test-galera`"));
        value.split(' ').map(str::to_owned).collect::<Vec<String>>()
    };
    let processes = words("BACKSCROLL_TEST_GALERA_PIDS");
    let processes = processes.iter().map(|pid| pid.parse().unwrap());
    words("BACKSCROLL_TEST_GALERA_URLS")
        .into_iter()
        .zip(processes)
        .collect()
}

/// A deployment with the directory on the third node and the shard `db1` at this node. The sandboxes are of one deployment.
fn at(node: &str, directory: &str) -> Sandbox {
    Sandbox::new().on_databases(&[
        format!("{directory}/galera_directory"),
        format!("{node}/galera_db1"),
    ])
}

/// Of the doctor's findings about the shard's server, those that are not ok.
fn complaints(sandbox: &Sandbox, code: i32) -> String {
    let findings = sandbox.run(&["doctor", "--json"]).exits(code).json();
    let findings = findings.as_array().unwrap();
    let of_shard = findings
        .iter()
        .filter(|it| it["subject"] == "shard db1" && it["verdict"] != "ok");
    of_shard
        .map(|it| it["detail"].as_str().unwrap())
        .collect::<Vec<_>>()
        .join("; ")
}

struct Talk {
    client: reqwest::Client,
    token: String,
    /// How many messages were sent: each is a new one.
    sent: AtomicU64,
}

impl Talk {
    async fn send(&self, server: &Server, conversation: &str) -> StatusCode {
        let id = format!("said {}", self.sent.fetch_add(1, Ordering::Relaxed));
        let url = format!(
            "{}/chat/conversations/{conversation}/messages",
            server.url()
        );
        let message = json!({"content": id, "clientMsgId": id});
        let request = self.client.post(url).bearer_auth(&self.token);
        request.json(&message).send().await.unwrap().status()
    }

    /// Sends until it is answered like this.
    async fn sends_end_in(&self, status: StatusCode, server: &Server, conversation: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.send(server, conversation).await;
            if found == status {
                return;
            }
            assert!(Instant::now() < until, "{found} and not {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Galera cluster: `make test-galera`"]
async fn a_galera_cluster_has_one_writer_and_loses_nothing_with_it() {
    let nodes = nodes();
    let [(one, one_process), (two, _), (three, _)] = nodes.as_slice() else {
        panic!("three nodes are needed, there are {nodes:?}");
    };
    let mut operator = MySqlConnection::connect(three).await.unwrap();
    for name in ["galera_directory", "galera_db1"] {
        let statement = format!("CREATE OR REPLACE DATABASE {name}");
        let made = sqlx::query(AssertSqlSafe(statement)).execute(&mut operator);
        made.await.unwrap();
    }
    let (first, second) = (at(one, three), at(two, three));

    // The node that was there when the tables were made is the writer.
    first.run(&["migrate"]).exits(0);
    first.run(&["migrate"]).exits(0);
    second.run(&["migrate"]).exits(0); // this changes no writer
    assert_eq!(complaints(&first, 0), "");
    let complaint = complaints(&second, 1);
    assert!(complaint.contains("of its cluster only"), "{complaint}");
    let stamped = sqlx::query_scalar("SELECT server FROM galera_db1.writer");
    let stamped: String = stamped.fetch_one(&mut operator).await.unwrap();
    let port = one.rsplit(':').next().unwrap();
    assert!(stamped.ends_with(&format!(":{port}")), "{stamped}");

    let server = start(&first);
    let other = start(&second);
    let talk = Talk {
        client: reqwest::Client::new(),
        token: token(&first),
        sent: AtomicU64::new(0),
    };
    let conversation = create(&talk.client, &server, &talk.token).await;
    let (created, unavailable) = (StatusCode::CREATED, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(talk.send(&server, &conversation).await, created);
    for _ in 0..3 {
        assert_eq!(talk.send(&other, &conversation).await, unavailable);
    }
    assert!(second.log().contains("of its cluster only"));

    // Another writer: what is open on the first node writes nothing more, and goes on when that is the writer again.
    let writer = ["shards", "writer", "db1"];
    let planned = second.run(&[&writer[..], &["--dry-run"]].concat()).exits(0);
    assert!(
        planned.stdout.ends_with("nothing was done\n"),
        "{planned:?}"
    );
    second.run(&writer).exits(2); // without a reason
    let reason = ["--reason", "node 1 is to rest", "--json"];
    let changed = second.run(&[&writer[..], &reason].concat()).exits(0).json();
    assert_eq!(changed["was"], stamped);
    assert_ne!(changed["writer"], stamped);
    talk.sends_end_in(unavailable, &server, &conversation).await;
    for _ in 0..20 {
        assert_eq!(talk.send(&server, &conversation).await, unavailable);
    }
    talk.sends_end_in(created, &other, &conversation).await;
    first.run(&[&writer[..], &reason].concat()).exits(0);
    talk.sends_end_in(unavailable, &other, &conversation).await;
    talk.sends_end_in(created, &server, &conversation).await;
    other.stop();

    // The writer's node is lost under load.
    let messages = format!(
        "{}/chat/conversations/{conversation}/messages",
        server.url()
    );
    let mut tasks = JoinSet::new();
    for number in 0..SENDERS {
        let (client, token) = (talk.client.clone(), talk.token.clone());
        let sending = send_until_cut(client, messages.clone(), token, number, Sender::default());
        tasks.spawn(sending);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut kill = Command::new("kill");
    let killed = kill.args(["-9", &one_process.to_string()]).status();
    assert!(killed.unwrap().success());
    talk.sends_end_in(unavailable, &server, &conversation).await;
    drop(server);
    let mut senders = Vec::new();
    while let Some(sender) = tasks.join_next().await {
        senders.push(sender.unwrap());
    }
    let complaint = complaints(&second, 1);
    assert!(complaint.contains("of its cluster only"), "{complaint}");
    second.run(&[&writer[..], &reason].concat()).exits(0);
    assert_eq!(complaints(&second, 0), "");
    let server = start(&second);
    talk.sends_end_in(created, &server, &conversation).await;
    let stored = read_back(&talk.client, &server, &talk.token, &conversation).await;
    let acknowledged = assert_kept(&senders, &stored);
    assert!(acknowledged > SENDERS, "they did send: {acknowledged}");
    server.stop();
}
