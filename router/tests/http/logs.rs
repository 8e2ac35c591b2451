//! What is logged, and what is not: tokens, bodies, addresses; and what callers are not told: the inside.

use std::io;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::json;
use sqlx::Connection as _;
use tokio::io::AsyncReadExt as _;
use tracing_subscriber::EnvFilter;

use crate::harness::{Answer, Service};

/// Keeps what is logged on this thread, where the whole test runs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start(filter: &str) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt()
            .json()
            .with_env_filter(EnvFilter::new(filter))
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(lines))
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone())
            .unwrap()
            .lines()
            .map(String::from)
            .collect()
    }

    /// A line about a request with this in it, which may be written a little after the answer is there.
    async fn line_about(&self, request_id: &str, part: &str) -> String {
        for _ in 0..500 {
            let mut lines = self.about(request_id).into_iter();
            if let Some(line) = lines.find(|line| line.contains(part)) {
                return line;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("nothing about {request_id} with {part}: {:?}", self.lines())
    }

    fn about(&self, request_id: &str) -> Vec<String> {
        self.lines()
            .into_iter()
            .filter(|line| line.contains(request_id))
            .collect()
    }
}

#[tokio::test]
async fn the_access_log_has_every_request_and_no_secrets() {
    let (log, _guard) =
        Log::start("info,backscroll=debug,backscroll_shard=debug,backscroll_realtime=debug");
    let service = Service::start().await;
    let alice = service.user("alice");
    let created = alice
        .post(
            "/chat/conversations",
            json!({ "kind": "group", "members": ["bob"] }),
        )
        .await;
    let id = created.body["id"].as_str().unwrap();
    let path = format!("/chat/conversations/{id}/messages?limit=7");
    let sent = alice
        .request(Method::POST, &path)
        .header("x-request-id", "req-1");
    Answer::of(sent.json(&json!({ "content": "the-private-words" })))
        .await
        .expect(201);
    Answer::of(
        service
            .request(Method::GET, &path)
            .bearer_auth("a-stolen-token")
            .header("x-request-id", "req-2"),
    )
    .await
    .problem(401, "token_invalid");

    let line = log.line_about("req-1", "backscroll::access").await;
    for part in [
        r#""method":"POST""#,
        r#""route":"/chat/conversations/{conversationId}/messages""#,
        r#""status":201"#,
        r#""ms":"#,
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    log.line_about("req-2", "token_invalid").await;
    // Older front-ends have it in the address.
    for token in ["a-stolen-token", &alice.token] {
        let path = format!("/ws/chat?token={token}");
        let handshake = service
            .request(Method::GET, &path)
            .header("x-request-id", "req-3")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = handshake.send().await.unwrap();
        assert_eq!(answer.status(), 101);
        let mut socket = answer.upgrade().await.unwrap();
        let mut heard = [0; 30];
        socket.read_exact(&mut heard).await.unwrap();
        let heard = String::from_utf8_lossy(&heard);
        let first = if *token == *alice.token {
            "hello"
        } else {
            "error"
        };
        assert!(heard.contains(first), "{heard}");
    }
    let line = log.line_about("req-3", "backscroll::access").await;
    assert!(line.contains(r#""route":"/ws/chat""#), "{line}");
    let all = log.lines().join("\n");
    for secret in [
        alice.token.as_str(),
        "a-stolen-token",
        "the-private-words",
        "limit=7",
    ] {
        assert!(!all.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn what_administrators_send_is_logged_without_its_text() {
    let (log, _guard) = Log::start("info");
    let service = Service::start().await;
    let new =
        json!({ "userIds": ["bob"], "type": "offer", "title": "the-title", "body": "the-body" });
    let root = service.admin("root");
    root.post("/admin/notifications", new).await.expect(200);
    let lines = log.about("backscroll::audit");
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["root", "bob", "offer"] {
        assert!(lines[0].contains(part), "{part} is not in {lines:?}");
    }
    let all = log.lines().join("\n");
    assert!(
        !all.contains("the-title") && !all.contains("the-body"),
        "{all}"
    );
}

#[tokio::test]
async fn requests_that_go_well_are_not_logged_by_default() {
    let (log, _guard) = Log::start("info");
    let service = Service::start().await;
    service
        .user("alice")
        .get("/chat/unread-count")
        .await
        .expect(200);
    Answer::of(service.request(Method::GET, "/chat/unread-count"))
        .await
        .problem(401, "unauthenticated");
    assert!(
        !log.lines()
            .iter()
            .any(|line| line.contains("backscroll::access")),
        "{:?}",
        log.lines()
    );
}

#[tokio::test]
async fn a_database_failure_is_logged_once_and_not_shown() {
    let (log, _guard) = Log::start("info");
    let service = Service::start().await;
    let alice = service.user("alice");
    let created = alice
        .post(
            "/chat/conversations",
            json!({ "kind": "group", "members": [] }),
        )
        .await
        .expect(201);
    let path = format!(
        "/chat/conversations/{}/messages",
        created["id"].as_str().unwrap()
    );
    alice
        .post(&path, json!({ "content": "a" }))
        .await
        .expect(201);
    for shard in ["shard1", "shard2"] {
        let url = format!("sqlite://{}/{shard}.db", service.folder());
        let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("ALTER TABLE messages RENAME TO gone")
            .execute(&mut database)
            .await
            .unwrap();
        database.close().await.unwrap();
    }
    let requests = [
        alice.request(Method::GET, &path),
        alice
            .request(Method::POST, &path)
            .json(&json!({ "content": "a" })),
    ];
    for request in requests {
        let answer = Answer::of(request).await;
        answer.problem(500, "internal");
        let text = answer.body.to_string().to_lowercase();
        for inside in [
            "sql",
            "table",
            "messages",
            "gone",
            "shard",
            service.folder(),
        ] {
            assert!(!text.contains(inside), "{inside} is in {text}");
        }
        let lines = log.about(answer.header("x-request-id"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains(r#""level":"ERROR""#) && lines[0].contains("no such table"),
            "{lines:?}"
        );
    }
}
