//! A node that is used shows its metrics: each that the use concerns is there, with a value.

use serde_json::json;

use crate::harness::{PATIENCE, Sandbox};
use crate::ledger::token;
use crate::presence::{connect, say, until};

/// What a node shows after a conversation was made, a message sent and received, and a command refused.
const SHOWN: [&str; 24] = [
    "backscroll_http_requests_total",
    "backscroll_http_request_seconds",
    "backscroll_http_requests_in_flight",
    "backscroll_http_connections",
    "backscroll_token_checks_total",
    "backscroll_process_cpu_seconds",
    "backscroll_process_memory_bytes",
    "backscroll_process_files",
    "backscroll_task_up",
    "backscroll_write_batch_messages",
    "backscroll_messages_sent_total",
    "backscroll_write_queue_messages",
    "backscroll_membership_lookups_total",
    "backscroll_database_connections",
    "backscroll_shard_takes",
    "backscroll_realtime_sessions",
    "backscroll_realtime_topics",
    "backscroll_realtime_connects_total",
    "backscroll_realtime_command_seconds",
    "backscroll_realtime_command_failures_total",
    "backscroll_realtime_events_total",
    "backscroll_realtime_push_lag_seconds",
    "backscroll_archive_lag_seconds",
    "backscroll_archive_cache_bytes",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_under_use_shows_what_it_counts() {
    let sandbox = Sandbox::new()
        .with(
            "BACKSCROLL_AUTH__SECRET",
            "0123456789abcdef0123456789abcdef",
        )
        .with_one_shard();
    let node = sandbox.serve(&[], 1);
    let mut http = node.connect().with_token(&token("alice"));
    let new = json!({"kind": "group", "members": ["bob"], "title": "Lunch"}).to_string();
    let (status, made) = http.post("/chat/conversations", &new).unwrap();
    assert_eq!(status, 201, "{made}");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let mut bob = connect(&node, "bob").await;
    say(
        &mut bob,
        "join_conversation",
        json!({"conversationId": made["id"]}),
    )
    .await;
    until(&mut bob, |frame| frame["ack"] == 1).await;
    say(&mut bob, "dance", json!({})).await;
    until(&mut bob, |frame| {
        frame["error"]["code"] == "invalid_request"
    })
    .await;
    let path = format!(
        "/chat/conversations/{}/messages",
        made["id"].as_str().unwrap()
    );
    let (status, sent) = http.post(&path, r#"{"content":"hello"}"#).unwrap();
    assert_eq!(status, 201, "{sent}");
    let received = until(&mut bob, |frame| frame["event"] == "new_message");
    tokio::time::timeout(PATIENCE, received).await.unwrap();

    let (_, shown) = http.get("/metrics").unwrap();
    for name in SHOWN {
        let is_value = |line: &str| {
            let series = line.strip_prefix(name);
            series.is_some_and(|rest| rest.starts_with([' ', '{', '_']))
        };
        assert!(shown.lines().any(is_value), "no {name} in {shown}");
    }
    for line in [
        r#"backscroll_messages_sent_total{shard="s1"} 1"#,
        r#"backscroll_realtime_command_failures_total{command="unknown",code="invalid_request"} 1"#,
        r#"backscroll_shard_takes{shard="s1",what="writes"} 1"#,
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "no {line} in {shown}"
        );
    }
    node.stop();
}
