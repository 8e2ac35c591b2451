//! Rate limits over HTTP: which rule refused, and when to come back.

use backscroll_shard::guard::{GuardSettings, Mode, Rate};
use backscroll_shard::settings::Span;
use serde_json::{Value, json};

use crate::harness::{Answer, Service};

const DAY: Span = Span::secs(86_400);

async fn service() -> Service {
    let few = |count| Rate::new(count, DAY, count);
    let guard = GuardSettings {
        mode: Mode::Enforce,
        messages: few(2),
        conversations: few(1),
        channels: few(1),
        additions: few(1),
        ..GuardSettings::default()
    };
    Service::start_with_guard(guard).await
}

/// Checks that `answer` is a refusal by `rule`.
#[track_caller]
fn refused(answer: &Answer, rule: &str) {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.body["code"], "rate_limited");
    assert_eq!(answer.body["rule"], rule);
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("`{rule}`")), "{detail}");
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    let milliseconds = answer.body["retryAfterMs"].as_u64().unwrap();
    assert_eq!(milliseconds.div_ceil(1000), seconds);
    assert_eq!(
        answer.header("ratelimit"),
        format!("\"{rule}\";r=0;t={seconds}")
    );
}

#[tokio::test]
async fn a_refusal_names_its_rule_and_when_to_come_back() {
    let service = service().await;
    let alice = service.user("alice");
    let path = format!(
        "/chat/conversations/{}/messages",
        alice.group(json!(["bob"])).await
    );
    let send = async |key: &str| {
        let message = json!({"content": key, "clientMsgId": key});
        alice.post(&path, message).await
    };
    let first = send("a").await.expect(201)["id"].clone();
    send("b").await.expect(201);
    let third = send("c").await;
    refused(&third, "messages");
    let policy = third.header("ratelimit-policy");
    assert_eq!(policy, r#""messages";q=2;w=86400"#);
    // A repetition of what is stored is answered as ever.
    assert_eq!(send("a").await.expect(200)["id"], first);
    let bob = service.user("bob");
    bob.post(&path, json!({"content": "hello"}))
        .await
        .expect(201);
    let history = bob.get(&path).await.expect(200);
    assert_eq!(history["headSeq"], 3);
}

#[tokio::test]
async fn conversations_channels_and_additions_have_rules_of_their_own() {
    let service = service().await;
    let alice = service.user("alice");
    let start = async |kind: &str, members: Value| {
        let new = json!({"kind": kind, "members": members});
        alice.post("/chat/conversations", new).await
    };
    let id = start("group", json!(["bob"])).await.expect(201)["id"].clone();
    refused(&start("direct", json!(["bob"])).await, "conversations");
    start("channel", json!([])).await.expect(201);
    refused(&start("channel", json!([])).await, "channels");
    let path = format!("/chat/conversations/{}/members", id.as_str().unwrap());
    let add = async |name: &str| alice.post(&path, json!({"members": [name]})).await;
    add("carol").await.expect(200);
    refused(&add("dave").await, "additions");
    add("carol").await.expect(200);
}
