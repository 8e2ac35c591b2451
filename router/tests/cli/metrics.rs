//! A node that is used shows its metrics: each that the use concerns is there, with a value.

use backscroll::metrics as service;
use backscroll_realtime::metrics as sessions;
use backscroll_shard::metrics as store;
use serde_json::json;

use crate::harness::{PATIENCE, Sandbox};
use crate::ledger::token;
use crate::presence::{connect, say, until};

/// What a node shows after a conversation was made, a message sent and received, and a command refused.
fn shown() -> Vec<&'static str> {
    vec![
        service::HTTP_REQUESTS.name(),
        service::HTTP_REQUEST_SECONDS.name(),
        service::HTTP_REQUESTS_IN_FLIGHT.name(),
        service::HTTP_CONNECTIONS.name(),
        service::TOKEN_CHECKS.name(),
        service::PROCESS_CPU_SECONDS.name(),
        service::PROCESS_MEMORY_BYTES.name(),
        service::PROCESS_FILES.name(),
        store::TASK_UP.name(),
        store::WRITE_BATCH_MESSAGES.name(),
        store::MESSAGES_SENT.name(),
        store::WRITE_QUEUE_MESSAGES.name(),
        store::MEMBERSHIP_LOOKUPS.name(),
        store::DATABASE_CONNECTIONS.name(),
        store::SHARD_TAKES.name(),
        sessions::SESSIONS.name(),
        sessions::CONNECTS.name(),
        sessions::COMMAND_SECONDS.name(),
        sessions::COMMAND_FAILURES.name(),
        sessions::EVENTS.name(),
    ]
}

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

    let (_, text) = http.get("/metrics").unwrap();
    let has = |line: &str| text.lines().any(|shown| shown.starts_with(line));
    for name in shown() {
        let is_there = [" ", "{", "_"]
            .iter()
            .any(|end| has(&format!("{name}{end}")));
        assert!(is_there, "no {name} in {text}");
    }
    let sent = store::MESSAGES_SENT.name();
    assert!(has(&format!(r#"{sent}{{shard="s1"}} 1"#)), "{text}");
    let failures = sessions::COMMAND_FAILURES.name();
    let unknown = format!(r#"{failures}{{command="unknown",code="invalid_request"}} 1"#);
    assert!(has(&unknown), "{text}");
    let takes = store::SHARD_TAKES.name();
    assert!(
        has(&format!(r#"{takes}{{shard="s1",what="writes"}} 1"#)),
        "{text}"
    );
    node.stop();
}
